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
    def hold(self, *paths: str) -> Iterator[None]:
        """Hold the locks of paths, however their directories are spelled; blocks.

        Args:
            paths: absolute, no links themselves.

        Raises:
            OSError: a directory cannot be reached.
        """
        keys = sorted(set(map(_key, paths)))  # in one order: nobody waits in a circle
        for key in keys:
            self._acquire(key)
        try:
            yield
        finally:
            for key in keys:
                self._release(key)

    def _acquire(self, key: Key) -> None:
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
        entry.lock.acquire()

    def _release(self, key: Key) -> None:
        with self._guard:
            entry = self._entries[key]
            entry.lock.release()
            entry.users -= 1
            if not entry.users:
                del self._entries[key]


def _key(path: str) -> Key:
    directory, name = os.path.split(path)
    status = os.stat(directory)
    return status.st_dev, status.st_ino, name
