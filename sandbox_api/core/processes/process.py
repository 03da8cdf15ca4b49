"""What a process is: what was asked for, and what became of it."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.reaper import Child, Exit


class Status(StrEnum):
    """The five that clients know (spec/process.md 5.1)."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What a client asks for.

    Attributes:
        command: a shell command line.
        name: empty for a generated one.
        working_dir: empty for the daemon's own.
        env: merged over the inherited environment.
        restart_on_failure: run again when it fails.
        max_restarts: at most so often; negative is unlimited.
    """

    command: str
    name: str = ""
    working_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    restart_on_failure: bool = False
    max_restarts: int = 0


@dataclass(slots=True, eq=False)
class Process:
    """One command, over all its restarts. Only `Processes` changes it.

    Attributes:
        pid: of the first run; it stays the same over restarts, as clients expect.
        working_dir: as given, after `~`; never resolved.
        directory: the absolute directory that it runs in, or empty for the daemon's own.
        child: the current or last run's first process.
        started_at: of the current run, seconds since the epoch.
        completed_at: the same, None while it runs.
        exit_code: 0 while it runs, -1 for a death by signal.
        signal: name of the signal that ended it.
        wanted_end: what a client asked for: STOPPED, KILLED, or None.
    """

    spec: ProcessSpec
    name: str
    working_dir: str
    directory: str
    output: Output
    child: Child
    pid: int = 0
    started_at: float = field(default_factory=time.time)
    completed_at: float | None = None
    status: Status = Status.RUNNING
    exit_code: int = 0
    signal: str | None = None
    restart_count: int = 0
    wanted_end: Status | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        """Whether it runs, or waits for its next restart."""
        return self.status is Status.RUNNING

    @property
    def stopping(self) -> bool:
        """Whether it was told to end and has not yet."""
        return self.running and self.wanted_end is not None

    def want_end(self, end: Status) -> None:
        """Remember that a client wants it to end; a kill outweighs a stop."""
        if self.wanted_end is not Status.KILLED:
            self.wanted_end = end
        self.wanted.set()

    def judge(self, exit_: Exit) -> Status:
        """What an end means (spec/process.md 5.1)."""
        if exit_.code == 0:
            return Status.COMPLETED
        return self.wanted_end or Status.FAILED

    def restarts_after(self, status: Status) -> bool:
        """Whether the policy says to run it again (spec/process.md 5.3)."""
        limit = self.spec.max_restarts
        within = limit < 0 or self.restart_count < limit
        return status is Status.FAILED and self.spec.restart_on_failure and within
