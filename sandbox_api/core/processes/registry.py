"""Which processes are remembered, and how an identifier finds one."""

from collections.abc import Callable, Iterator

from sandbox_api.core.processes.process import Process


class Registry:
    """Processes in order of start, by pid text and by name.

    Args:
        max_records: the oldest ended ones above this number are forgotten.
        forget: told of each of those, to let go of what is kept of it.
    """

    def __init__(self, max_records: int, forget: Callable[[Process], None]) -> None:
        self._max_records = max_records
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
        excess = len(self._all) - self._max_records
        if excess <= 0:
            return
        ended = (process for process in self._all if not process.running)
        for process in [next(ended, None) for _ in range(excess)]:
            if process is not None:
                self._forget(process)

    def _forget(self, process: Process) -> None:
        del self._all[process]
        if self._by_pid.get(str(process.pid)) is process:
            del self._by_pid[str(process.pid)]
        if self._by_name.get(process.name) is process:
            del self._by_name[process.name]
        self._tell_forgotten(process)
