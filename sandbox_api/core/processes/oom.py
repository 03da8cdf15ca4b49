"""Whether the kernel killed a process because memory ran out."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sandbox_api.core.processes.hierarchy import own_directory

_COUNTER = b"\noom_kill "
_READ_BYTES = 64 << 10


class OomKills:
    """Counts the processes that the kernel has killed for memory where we run.

    Args:
        sources: files with a line `oom_kill N`; the first that can be opened, when somebody first
            asks, is read from then on.
    """

    def __init__(self, sources: Iterable[Path] = ()) -> None:
        self._sources = sources
        self._fd: int | None = None
        self._claimed = 0

    @classmethod
    def nearest(cls) -> "OomKills":
        """By the nearest counter: of our own control group (v2, then v1), else the kernel's."""
        return cls(_counters())

    def count(self) -> int:
        """How many there have been; 0 where nobody knows."""
        if self._fd is None:
            self._fd = _open_first(self._sources)
        if self._fd < 0:
            return 0
        try:
            text = b"\n" + os.pread(self._fd, _READ_BYTES, 0)
        except OSError:
            return 0
        _, _, after = text.partition(_COUNTER)
        return int(after.split(b"\n", 1)[0] or 0)

    def claim(self, before: int) -> bool:
        """Whether a process that died of SIGKILL was one of them.

        Each kill explains one death only.

        Args:
            before: the count when it began.
        """
        explained = max(before, self._claimed)
        if self.count() <= explained:
            return False
        self._claimed = explained + 1
        return True

    def close(self) -> None:
        """Let the file go."""
        if self._fd is not None and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _open_first(sources: Iterable[Path]) -> int:
    for source in sources:
        with suppress(OSError):
            return os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    return -1


def _counters() -> Iterator[Path]:
    yield own_directory() / "memory.events"
    yield own_directory("memory") / "memory.oom_control"
    yield Path("/proc/vmstat")
