"""One writer at a time for each path: between a look at a file and its replacement nobody else of
this process replaces it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Key = tuple[int, int, str]


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class PathLocks:
    """Locks by directory and name, made when they are needed and forgotten when they are not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[Key, _Entry] = {}

    @contextmanager
    def hold(self, path: str) -> Iterator[None]:
        """Hold the lock of a path, however its directory is spelled; blocks.

        Args:
            path: absolute, no link itself.

        Raises:
            OSError: its directory cannot be reached.
        """
        directory = os.stat(os.path.dirname(path))
        key = directory.st_dev, directory.st_ino, os.path.basename(path)
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                yield
        finally:
            with self._guard:
                entry.users -= 1
                if not entry.users:
                    del self._entries[key]
