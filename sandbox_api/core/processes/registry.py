"""Which processes are remembered, and how an identifier finds one."""

import time
from collections.abc import Callable, Iterator

from sandbox_api.core.processes.process import Process


class Registry:
    """Processes in order of start, by pid text and by name.

    Args:
        max_records: the oldest ended ones above this number are forgotten.
        max_age_s: ended ones are forgotten after so many seconds, when another starts.
        forget: told of each of those, to let go of what is kept of it.
    """

    def __init__(
        self, max_records: int, max_age_s: float, forget: Callable[[Process], None]
    ) -> None:
        self._max_records = max_records
        self._max_age_s = max_age_s
        self._tell_forgotten = forget
        self._all: dict[Process, None] = {}
        self._by_pid: dict[str, Process] = {}
        self._by_name: dict[str, Process] = {}

    def __iter__(self) -> Iterator[Process]:
        return iter(self._all)

    def add(self, process: Process) -> None:
        """Remember a process; it is now the one that its pid and its name mean."""
        self._all[process] = None
        self._by_pid[str(process.pid)] = process
        self._by_name[process.name] = process
        self._trim()

    def find(self, identifier: str) -> Process | None:
        """The newest whose pid text matches, else the newest of that name."""
        return self._by_pid.get(identifier) or self._by_name.get(identifier)

    def named(self, name: str) -> Process | None:
        """The newest of that name."""
        return self._by_name.get(name)

    def _trim(self) -> None:
        for process in list(self._surplus()):
            self._forget(process)

    def _surplus(self) -> Iterator[Process]:
        oldest = time.time() - self._max_age_s
        excess = len(self._all) - self._max_records
        for process in self._all:
            if excess <= 0 and process.started_at > oldest:
                return  # what comes after began later
            if process.completed_at is not None and (excess > 0 or process.completed_at < oldest):
                excess -= 1
                yield process

    def _forget(self, process: Process) -> None:
        del self._all[process]
        if self._by_pid.get(str(process.pid)) is process:
            del self._by_pid[str(process.pid)]
        if self._by_name.get(process.name) is process:
            del self._by_name[process.name]
        self._tell_forgotten(process)
