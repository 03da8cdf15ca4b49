"""Tools that run a command and wait for it: processExecute, processWait."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from pydantic import Field

from sandbox_api.api.mcp.processes import IDENTIFIER, find_process, read_end
from sandbox_api.api.mcp.schemas import Arguments, Integer, OptionalFlag, OptionalText, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool, failing
from sandbox_api.api.mcp.watching import tell_output
from sandbox_api.api.wire import FILES, PROCESSES, SETTINGS, SHUTDOWN
from sandbox_api.core import keepalive
from sandbox_api.core.processes import Process, ProcessSpec
from sandbox_api.core.processes.readiness import explain_missing, wait_for_ports
from sandbox_api.errors import DeadlineError, InvalidError, NotFoundError

DEFAULT_TIMEOUT_S: Final = 30
LONGEST_WAIT_S: Final = 58  # clients give up after 60


class ExecuteArguments(Arguments):
    command: str = Field(description="Shell command line to run")
    name: str | None = Field(None, description="Name to find the process by; made up if absent")
    working_dir: str | None = Field(
        None, description="Directory to run in; the working directory if absent"
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables, added to the inherited ones"
    )
    wait_for_completion: bool | None = Field(
        None, description="Wait for the end of the command and return its output"
    )
    timeout: Integer | None = Field(
        None,
        description="Seconds to wait, 30 by default; over 58 it returns after 58 with pollRequired",
    )
    wait_for_ports: list[Integer] | None = Field(
        None, description="Wait until the process listens on these ports, reachable from outside"
    )
    restart_on_failure: bool | None = Field(None, description="Run it again when it fails")
    max_restarts: Integer | None = Field(
        None, description="How often it is run again at most; negative is without a limit"
    )
    keep_alive: bool | None = Field(
        None, description="Keep the sandbox awake while it runs, for the timeout or 600 seconds"
    )
    stdin: bool | None = Field(None, description="Let processWriteStdin write to it")


class ExecuteResult(Result):
    pid: str
    name: str
    status: str
    exit_code: int
    logs: OptionalText = ""
    message: OptionalText = ""
    poll_required: OptionalFlag = False


class WaitArguments(Arguments):
    identifier: str = Field(description=IDENTIFIER)
    timeout: Integer | None = Field(
        None, description="Seconds to wait for its end, 30 by default and 58 at most"
    )


class _Wait(NamedTuple):
    """How long to wait for a command.

    Attributes:
        asked_s: what the client said, in seconds.
        limit_s: how long it is waited for.
        gives_up: whether it is an error when the time is over.
    """

    asked_s: int
    limit_s: int

    @property
    def gives_up(self) -> bool:
        return 0 < self.asked_s <= LONGEST_WAIT_S


async def execute(call: Call, wanted: ExecuteArguments) -> ExecuteResult:
    if wanted.keep_alive and call.app[SETTINGS].keep_alive_disabled:
        raise InvalidError(keepalive.DISABLED)
    process = await _start(call, wanted)
    if not wanted.wait_for_completion and not wanted.wait_for_ports:
        return _outcome(process)
    wait = _wait(wanted)
    try:
        async with tell_output(call, process, wait.limit_s):
            over = await _await(call, process, wanted, wait)
    except asyncio.CancelledError:
        if call.cancelled and not call.app[SHUTDOWN].began.is_set():
            with suppress(NotFoundError):  # it has just ended
                await call.app[PROCESSES].stop(str(process.pid))
        raise
    return await _outcome_with_output(call, process, poll=not over, waited_s=wait.limit_s)


async def _await(call: Call, process: Process, wanted: ExecuteArguments, wait: _Wait) -> bool:
    """Whether what the client waits for has come.

    Raises:
        DeadlineError: it has not, and the time that the client gave is over.
        FailedError: it cannot come any more.
    """
    deadline = asyncio.get_running_loop().time() + wait.limit_s
    if wanted.wait_for_ports:
        missing = await wait_for_ports(process, wanted.wait_for_ports, deadline)
        if missing and wait.gives_up:
            raise DeadlineError(await _missing_ports(process, missing, wait))
        if missing:
            return False
    if not wanted.wait_for_completion:
        return True
    left_s = max(deadline - asyncio.get_running_loop().time(), 0.0)
    ended = await call.app[PROCESSES].wait(process, left_s)
    if not ended and wait.gives_up:
        raise DeadlineError(f"process timed out after {wait.asked_s} seconds; {_goes_on(process)}")
    return ended


async def _start(call: Call, wanted: ExecuteArguments) -> Process:
    working_dir = wanted.working_dir or call.app[FILES].paths.workdir
    spec = ProcessSpec(
        command=wanted.command,
        name=wanted.name or "",
        working_dir=working_dir,
        env=wanted.env,
        stdin=bool(wanted.stdin),
        restart_on_failure=bool(wanted.restart_on_failure),
        max_restarts=wanted.max_restarts or 0,
        keep_alive=bool(wanted.keep_alive),
        keep_alive_s=_timeout_s(wanted),
    )
    with failing("failed to start process", "failed to start process"):
        process = await call.app[PROCESSES].start(spec)
    call.audit("process_exec", command=wanted.command, working_dir=working_dir)
    return process


def _timeout_s(wanted: ExecuteArguments) -> int:
    """Seconds; 0 is without a limit."""
    if wanted.timeout is None:
        return keepalive.RUN_LIMIT_S if wanted.keep_alive else DEFAULT_TIMEOUT_S
    return max(wanted.timeout, 0)


def _wait(wanted: ExecuteArguments) -> _Wait:
    asked_s = _timeout_s(wanted)
    return _Wait(asked_s, min(asked_s or LONGEST_WAIT_S, LONGEST_WAIT_S))


async def _missing_ports(process: Process, missing: Sequence[int], wait: _Wait) -> str:
    reasons = await explain_missing(process, missing)
    return (
        f"process timed out waiting for ports after {wait.asked_s} seconds: {reasons}; "
        f"{_goes_on(process)}"
    )


def _goes_on(process: Process) -> str:
    return (
        f"it goes on as '{process.name}' (PID {process.pid}): look with processGet, wait with "
        "processWait, or end it with processStop"
    )


def _outcome(process: Process) -> ExecuteResult:
    return ExecuteResult(
        pid=str(process.pid),
        name=process.name,
        status=process.status.value,
        exit_code=process.exit_code,
    )


async def _outcome_with_output(
    call: Call, process: Process, *, poll: bool, waited_s: int
) -> ExecuteResult:
    output = await read_end(call, process)
    message = ""
    if poll:
        message = (
            f"Process is still running after {waited_s} seconds. Poll processGet with identifier "
            f"'{process.name}' (or PID {process.pid}) in a loop until the status is 'completed', "
            "'failed', 'killed', or 'stopped', or call processWait. The process continues running "
            "in the background."
        )
    found = {"logs": output.logs, "message": message, "poll_required": poll}
    return _outcome(process).model_copy(update=found)


async def wait(call: Call, wanted: WaitArguments) -> ExecuteResult:
    process = find_process(call, wanted.identifier, "failed to wait for process: process not found")
    limit_s = DEFAULT_TIMEOUT_S if wanted.timeout is None else wanted.timeout
    limit_s = min(max(limit_s, 0), LONGEST_WAIT_S)
    async with tell_output(call, process, limit_s):
        await call.app[PROCESSES].wait(process, limit_s)
    return await _outcome_with_output(call, process, poll=process.running, waited_s=limit_s)


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "processExecute",
        "Execute a shell command. With waitForCompletion it returns the output and the exit code; "
        "what runs longer goes on in the background (pollRequired). Without it, for servers and "
        "long jobs, it returns at once. A non-zero exit code is no error of this tool.",
        ExecuteArguments,
        ExecuteResult,
        execute,
        Hints(title="Execute a command", destructive=True, open_world=True),
        reports=True,
    ),
    Tool(
        "processWait",
        "Wait until a process ends, 58 seconds at most, and return its exit code and the end of "
        "its output; pollRequired says that it still runs.",
        WaitArguments,
        ExecuteResult,
        wait,
        Hints(title="Wait for a process", read_only=True),
        reports=True,
    ),
)
