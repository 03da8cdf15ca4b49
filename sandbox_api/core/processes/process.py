"""What a process is: what was asked for, and what became of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sandbox_api.core.latch import Latch
from sandbox_api.core.processes.cgroup import Cgroup
from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.reaper import Child, Exit
from sandbox_api.core.processes.stdin import Stdin
from sandbox_api.errors import ConflictError


class Status(StrEnum):
    """The five that clients know (spec/process.md 5.1)."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What a client asks for.

    Attributes:
        command: a shell command line.
        name: empty for a generated one.
        working_dir: empty for the daemon's own.
        env: merged over the inherited environment.
        stdin: whether the client will write to its stdin; otherwise that is /dev/null.
        restart_on_failure: run again when it fails.
        max_restarts: at most so often; negative is unlimited.
        keep_alive: keep the sandbox awake while it runs.
        keep_alive_s: kill a run of that age, in seconds, if it keeps the sandbox awake; 0 is never.
        max_runtime_s: stop a run of that age, in seconds; 0 is never.
    """

    command: str
    name: str = ""
    working_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bool = False
    restart_on_failure: bool = False
    max_restarts: int = 0
    keep_alive: bool = False
    keep_alive_s: float = 0.0
    max_runtime_s: float = 0.0

    @property
    def run_limit_s(self) -> float | None:
        """How old a run may become, in seconds; None without a limit."""
        keep_alive_s = self.keep_alive_s if self.keep_alive else 0.0
        return min(
            (limit for limit in (keep_alive_s, self.max_runtime_s) if limit > 0), default=None
        )


@dataclass(slots=True, eq=False)
class Process:
    """One command, over all its restarts. Only this package changes it.

    Attributes:
        pid: of the first run; it stays the same over restarts, as clients expect.
        working_dir: as given, after `~`; never resolved.
        directory: the absolute directory that it runs in, or empty for the daemon's own.
        child: the current or last run's first process.
        group: the control group of all runs; None where there is none.
        stdin: of the current run, where the client asked for one.
        started_at: of the current run, seconds since the epoch.
        completed_at: the same, None while it runs.
        last_exit: how the last run ended, None before that.
        wanted_end: what a client (or a limit) asked for: STOPPED, KILLED, or None.
        timed_out: whether a limit on its runtime ended it.
        restarting: whether it waits for its next run.
    """

    spec: ProcessSpec
    name: str
    working_dir: str
    directory: str
    output: Output
    child: Child = field(init=False)
    group: Cgroup | None = None
    stdin: Stdin | None = None
    pid: int = 0
    started_at: float = field(default_factory=time.time)
    completed_at: float | None = None
    status: Status = Status.RUNNING
    last_exit: Exit | None = None
    restart_count: int = 0
    wanted_end: Status | None = None
    timed_out: bool = False
    restarting: bool = False
    ended: Latch = field(default_factory=Latch)
    wanted: Latch = field(default_factory=Latch)

    @property
    def running(self) -> bool:
        """Whether it runs, or waits for its next restart."""
        return self.status is Status.RUNNING

    @property
    def stopping(self) -> bool:
        """Whether it was told to end and has not yet."""
        return self.running and self.wanted_end is not None

    @property
    def exit_code(self) -> int:
        """0 while it runs, -1 for a death by signal."""
        return 0 if self.running or self.last_exit is None else self.last_exit.code

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it."""
        return None if self.running or self.last_exit is None else self.last_exit.signal

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed it because memory ran out; not when it was killed anyway."""
        if self.running or self.last_exit is None:
            return False
        return self.last_exit.out_of_memory and self.wanted_end is None

    @property
    def keeps_alive(self) -> bool:
        """Whether it keeps the sandbox awake; no longer once it was told to end."""
        return self.spec.keep_alive and self.wanted_end is None

    @property
    def who(self) -> dict[str, object]:
        """How a client finds it: fields for an error body."""
        return {"pid": str(self.pid), "name": self.name}

    def open_stdin(self) -> Stdin:
        """Its stdin, to be written to.

        Raises:
            ConflictError: it has none, or it was closed; the text says why.
        """
        if self.stdin is None or not self.stdin.open:
            raise self._no_stdin()
        return self.stdin

    def close_stdin(self) -> None:
        """Let it read an end of file; a second time is fine.

        Raises:
            ConflictError: it never had one.
        """
        if not self.spec.stdin:
            raise self._no_stdin()
        if self.stdin is not None:
            self.stdin.close()

    def _no_stdin(self) -> ConflictError:
        reason = "it was closed"
        if not self.spec.stdin:
            reason = 'start it with "stdin": true'
        elif not self.running:
            reason = "it is not running"
        elif self.restarting:
            reason = "it waits for its restart, try again"
        return ConflictError(f"process {self.name} has no open stdin: {reason}", self.who)

    def begin(self, child: Child, stdin: Stdin | None) -> None:
        """A run has begun."""
        self.child, self.stdin, self.restarting = child, stdin, False
        self.started_at = time.time()

    def want_end(self, end: Status) -> None:
        """Remember that it shall end; a kill outweighs a stop."""
        if self.wanted_end is not Status.KILLED:
            self.wanted_end = end
        self.wanted.set()

    def judge(self, exit_: Exit) -> Status:
        """What an end means (spec/process.md 5.1)."""
        if self.timed_out:
            return Status.KILLED
        if exit_.code == 0:
            return Status.COMPLETED
        return self.wanted_end or Status.FAILED

    def restarts_after(self, exit_: Exit) -> bool:
        """Whether the policy says to run it again (spec/process.md 5.3)."""
        limit = self.spec.max_restarts
        within = limit < 0 or self.restart_count < limit or self.restarting
        return self.judge(exit_) is Status.FAILED and self.spec.restart_on_failure and within
