"""Tools for commands: start, wait, look, write to, end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from pydantic import Field

from sandbox_api.api.mcp.schemas import (
    Arguments,
    Integer,
    NoArguments,
    OptionalFlag,
    OptionalText,
    Result,
)
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool, failing
from sandbox_api.api.processes.replies import end_reply, process_reply
from sandbox_api.api.schemas.processes import ProcessReply
from sandbox_api.api.wire import PROCESSES, SETTINGS
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.begin import Begin, find_begin
from sandbox_api.core.processes.page import LEAST_BYTES, read_page
from sandbox_api.core.processes.tail import OutputText, read_tail
from sandbox_api.errors import InvalidError, NotFoundError

DEFAULT_LOG_BYTES: Final = 256 * 1024
LIST_CHARACTERS: Final = 1 << 20
"""How much output the list inlines, newest processes first."""

MOST_ENDED: Final = 100

IDENTIFIER: Final = "PID or name of the process"


class IdentifierArguments(Arguments):
    identifier: str = Field(description=IDENTIFIER)


class LogsArguments(Arguments):
    identifier: str = Field(description=IDENTIFIER)
    tail: Integer | None = Field(None, description="Only so many last lines")
    max_bytes: Integer | None = Field(
        None, description="The most bytes of output, its end; 262144 by default"
    )


class StdinArguments(Arguments):
    identifier: str = Field(description=IDENTIFIER)
    data: str | None = Field(None, description="Text to write, with its line breaks")
    close: bool | None = Field(None, description="Close stdin after it: the end of the input")


class ProcessResult(Result, ProcessReply):
    pass


class ListResult(Result):
    processes: list[ProcessResult]
    truncated: OptionalFlag = False


class LogsResult(Result):
    logs: str
    truncated: OptionalFlag = False


class EndResult(Result):
    status: str
    message: OptionalText = ""


class StdinResult(Result):
    message: str
    bytes_written: int


async def read_end(call: Call, process: Process) -> OutputText:
    return await read_tail(process.output, call.app[SETTINGS].max_log_tail_bytes)


async def list_processes(call: Call, _: NoArguments) -> ListResult:
    left = LIST_CHARACTERS
    found = []
    everything = call.app[PROCESSES].list()
    ended = set([one for one in everything if not one.running][-MOST_ENDED:])
    chosen = [process for process in everything if process.running or process in ended]
    for process in reversed(chosen):
        output = await read_end(call, process) if left > 0 else OutputText()
        left -= len(output.logs) * 2
        found.append(_told(process, output, unfinished=None))
        await asyncio.sleep(0)
    return ListResult(processes=found[::-1], truncated=len(chosen) < len(everything))


async def get(call: Call, wanted: IdentifierArguments) -> ProcessResult:
    process = find_process(call, wanted.identifier, "failed to get process: process not found")
    return _told(process, await read_end(call, process), unfinished="")


def _told(process: Process, output: OutputText, unfinished: str | None) -> ProcessResult:
    reply = process_reply(process, output, unfinished)
    return ProcessResult.model_construct(**reply.__dict__)


async def get_logs(call: Call, wanted: LogsArguments) -> LogsResult:
    identifier = wanted.identifier
    missing = f"failed to get process logs: process with PID {identifier} not found"
    process = find_process(call, identifier, missing)
    call.audit("process_logs_access", identifier=identifier)
    most = DEFAULT_LOG_BYTES if wanted.max_bytes is None else wanted.max_bytes
    if most < LEAST_BYTES or (wanted.tail or 0) < 0:
        raise InvalidError(
            f"failed to get process logs: maxBytes is at least {LEAST_BYTES}, and tail at least 0"
        )
    most = min(most, call.app[SETTINGS].max_log_reply_bytes or most)
    if wanted.tail is None:
        return _logs(await read_tail(process.output, most))
    begin = await find_begin(process.output, Begin(last_lines=wanted.tail))
    end = process.output.position
    if end.order - begin.stdout - begin.stderr > most:
        return _logs(await read_tail(process.output, most))
    return _logs(await read_page(process.output, begin, most))


def _logs(output: OutputText) -> LogsResult:
    return LogsResult(logs=output.logs, truncated=any(output.missing[:2]))


async def stop(call: Call, wanted: IdentifierArguments) -> EndResult:
    call.audit("process_stop", identifier=wanted.identifier)
    with failing("failed to stop process"):
        process = await call.app[PROCESSES].stop(wanted.identifier)
    if process.running:
        return EndResult(status="stopping", message=end_reply(process, "").message)
    return EndResult(status="stopped")


async def kill(call: Call, wanted: IdentifierArguments) -> EndResult:
    call.audit("process_kill", identifier=wanted.identifier)
    with failing("failed to kill process"):
        process, survivors = await call.app[PROCESSES].kill(wanted.identifier)
    if survivors:
        return EndResult(status="killed", message=end_reply(process, "", survivors).message)
    return EndResult(status="killed")


async def write_stdin(call: Call, wanted: StdinArguments) -> StdinResult:
    identifier = wanted.identifier
    missing = f"failed to write to stdin: process with Identifier {identifier} not found"
    process = find_process(call, identifier, missing)
    data = (wanted.data or "").encode()

    with failing("failed to write to stdin"):
        if data:
            await process.open_stdin().write(_chunks(data))
        if wanted.close:
            process.close_stdin()
    message = "Data written to stdin successfully" if data else "Nothing was written to stdin"
    if wanted.close:
        message = f"{message}; stdin is closed"
    return StdinResult(message=message, bytes_written=len(data))


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


def find_process(call: Call, identifier: str, otherwise: str) -> Process:
    process = call.app[PROCESSES].find(identifier)
    if process is None:
        raise NotFoundError(otherwise)
    return process


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "processesList",
        "List the processes that were started in this sandbox, with their status and the end of "
        "their output: all that run, and the 100 that were started last of those that have ended.",
        NoArguments,
        ListResult,
        list_processes,
        Hints(title="List processes", read_only=True),
    ),
    Tool(
        "processGet",
        "Get one process by its PID or name: status, exit code and the end of its output.",
        IdentifierArguments,
        ProcessResult,
        get,
        Hints(title="Get a process", read_only=True),
    ),
    Tool(
        "processGetLogs",
        "Get the output of one process, stdout and stderr in the order in which they came. Of much "
        "output the end is returned, and truncated is true.",
        LogsArguments,
        LogsResult,
        get_logs,
        Hints(title="Get the output of a process", read_only=True),
    ),
    Tool(
        "processWriteStdin",
        "Write to the stdin of a process that was started with stdin, and close it if asked.",
        StdinArguments,
        StdinResult,
        write_stdin,
        Hints(title="Write to a process"),
    ),
    Tool(
        "processStop",
        "Stop a process gracefully: SIGTERM to it and all that it started, SIGKILL after a grace.",
        IdentifierArguments,
        EndResult,
        stop,
        Hints(title="Stop a process", destructive=True, idempotent=True),
    ),
    Tool(
        "processKill",
        "Kill a process and all that it started at once, by SIGKILL.",
        IdentifierArguments,
        EndResult,
        kill,
        Hints(title="Kill a process", destructive=True, idempotent=True),
    ),
)
