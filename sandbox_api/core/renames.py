"""Renames by which our writes take their place, told to whoever watches the directory.

The kernel tells a watcher that a file was renamed, and not whether another had the new name before.
The writer knows it.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

Identity = tuple[int, int]
"""Device and inode of a directory, which has one of them under all its names."""


class RenameNotes:
    """What one watcher was told, until it sees the rename itself; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[Identity, dict[str, deque[bool]]] = {}

    @property
    def wanted(self) -> bool:
        """Whether any directory is watched."""
        return bool(self._names)

    def watch(self, directory: Identity) -> None:
        """From here on this directory's renames are noted."""
        with self._lock:
            self._names.setdefault(directory, {})

    def unwatch(self, directory: Identity) -> None:
        """Forget a directory."""
        with self._lock:
            self._names.pop(directory, None)

    def clear(self) -> None:
        """Forget all renames: they will not be seen."""
        with self._lock:
            for names in self._names.values():
                names.clear()

    def add(self, directory: Identity, name: str, *, replaces: bool) -> bool:
        """Note a rename that is about to happen; False where nobody watches."""
        with self._lock:
            names = self._names.get(directory)
            if names is None:
                return False
            names.setdefault(name, deque()).append(replaces)
            return True

    def take(self, directory: Identity, name: str) -> bool | None:
        """Whether the rename to a name that was seen now replaced a file; None: not one of ours."""
        return self._remove(directory, name, deque.popleft)

    def retract(self, directory: Identity, name: str) -> None:
        """The rename that was noted last did not happen."""
        self._remove(directory, name, deque.pop)

    def _remove(
        self, directory: Identity, name: str, pop: Callable[[deque[bool]], bool]
    ) -> bool | None:
        with self._lock:
            names = self._names.get(directory)
            if not names or name not in names:
                return None
            replaces = pop(names[name])
            if not names[name]:
                del names[name]
            return replaces


class Renames:
    """All watchers of this process, and the renames that they are told."""

    def __init__(self) -> None:
        self._listening: tuple[RenameNotes, ...] = ()

    @contextmanager
    def told(self) -> Iterator[RenameNotes]:
        """Notes for one watcher, while the context lasts."""
        notes = RenameNotes()
        self._listening = (*self._listening, notes)
        try:
            yield notes
        finally:
            self._listening = tuple(other for other in self._listening if other is not notes)

    def rename(self, source: str, target: str, *, replaces: bool) -> None:
        """Rename, and say whether that replaces a file. Blocks; its caller holds the path's lock.

        Raises:
            OSError: as in `os.rename`.
        """
        with self.announced(target, replaces=replaces):
            os.rename(source, target)

    @contextmanager
    def announced(self, target: str, *, replaces: bool) -> Iterator[None]:
        """Within it a rename to `target` happens, or an error says that it did not."""
        listening = [notes for notes in self._listening if notes.wanted]
        told: list[RenameNotes] = []
        if listening:
            directory, name = os.path.split(target)
            status = os.stat(directory)
            identity = (status.st_dev, status.st_ino)
            told = [notes for notes in listening if notes.add(identity, name, replaces=replaces)]
        try:
            yield
        except BaseException:
            for notes in told:
                notes.retract(identity, name)
            raise


# One for the process, since the files are the same whoever writes or watches them.
RENAMES: Final = Renames()
