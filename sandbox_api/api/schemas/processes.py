"""Processes on the wire (spec/process.md 2 and 7)."""

from typing import Annotated

from pydantic import Field

from sandbox_api.api.schemas.base import WireModel

INT64_LIMIT = 1 << 63
Integer = Annotated[int, Field(ge=-INT64_LIMIT, lt=INT64_LIMIT)]


class ProcessRequest(WireModel):
    """What `POST /process` takes; `timeout` and `maxRuntime` are in seconds."""

    command: str = Field(min_length=1)
    name: str = ""
    working_dir: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    wait_for_completion: bool = False
    timeout: Integer | None = None
    wait_for_ports: list[Integer] = Field(default_factory=list)
    restart_on_failure: bool = False
    max_restarts: Integer = 0
    keep_alive: bool = False
    stdin: bool = False
    max_runtime: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class ProcessReply(WireModel):
    """One process. Times are RFC 1123 in UTC; `exitCode` is -1 for a death by signal.

    What comes after `keepAlive` is ours: the reference has it not.
    """

    pid: str
    name: str
    command: str
    status: str
    started_at: str
    completed_at: str | None
    exit_code: int
    working_dir: str
    logs: str | None
    stdout: str
    stderr: str
    restart_on_failure: bool
    max_restarts: int
    restart_count: int
    keep_alive: bool
    stdin: bool
    stopping: bool
    signal: str | None
    timed_out: bool
    oom_killed: bool
    exit_known: bool
    started_at_ms: int
    completed_at_ms: int | None
    cpu_ms: int | None
    peak_memory_bytes: int | None


class StreamBytes(WireModel):
    """A number of bytes of each stream."""

    stdout: int
    stderr: int


class LogsReply(WireModel):
    """The captured output, each stream alone and both in order; where to read on; what is missing.

    What comes after `logs` is ours: the reference has it not.
    """

    stdout: str
    stderr: str
    logs: str
    stdout_offset: int
    stderr_offset: int
    truncated: StreamBytes


class Survivor(WireModel):
    """A process that outlived a SIGKILL, for example in an uninterruptible wait."""

    pid: int
    name: str


class EndReply(WireModel):
    """What a stop or a kill has reached so far."""

    message: str
    pid: str
    name: str
    status: str
    stopping: bool
    survivors: list[Survivor]
