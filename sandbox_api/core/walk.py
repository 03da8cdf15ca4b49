"""The one walk over what lies below a directory: for trees, archives and searches.

Everything here blocks: run it on file threads.
"""

import heapq
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandbox_api.core.mounts import kernel_mounts_below
from sandbox_api.core.paths import RESERVED_PREFIX

_RUN = 4096  # entries that are sorted at once: a longer sort would hold up the event loop
_CHECK_EVERY = 1024  # entries of one directory between two looks whether to stop


@dataclass(frozen=True, slots=True)
class WalkScope:
    """What a walk leaves out. Names are compared exactly; the start itself is never left out.

    Attributes:
        exclude_directories: base names of directories that are neither shown nor entered.
        exclude_hidden: whether names that begin with a dot are left out.
    """

    exclude_directories: frozenset[str] = frozenset()
    exclude_hidden: bool = False


class Walk:
    """One walk, depth first and bytewise by name; iterate over it once.

    A directory is shown before what is in it. Links are shown and never followed, names of ours are
    not shown. A directory that cannot be read is shown and not entered; nor is one on which a file
    system of the kernel is mounted, such as /proc in a walk over `/`: who wants it begins there.

    Args:
        root: absolute; where to begin. It is not shown.
        scope: what is left out.
        stopped: asked now and then whether to end early.

    Attributes:
        unreadable: how many directories could not be read so far.
    """

    def __init__(
        self,
        root: str,
        scope: WalkScope | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.unreadable = 0
        self._root = root
        self._scope = scope or WalkScope()
        self._stopped = stopped

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        """The entries.

        Raises:
            OSError: the root cannot be read.
        """
        levels = [self._read(self._root)]
        closed = kernel_mounts_below(self._root)
        while levels:
            if self._stopped():
                return
            for entry in levels[-1]:
                yield entry
                if is_directory(entry) and entry.path not in closed:
                    levels.append(self._read_below(entry.path))
                    break
            else:
                levels.pop()

    def _read_below(self, path: str) -> Iterator[os.DirEntry[str]]:
        try:
            return self._read(path)
        except OSError:
            self.unreadable += 1
            return iter(())

    def _read(self, path: str) -> Iterator[os.DirEntry[str]]:
        entries: list[os.DirEntry[str]] = []
        with os.scandir(path) as scan:
            for entry in scan:
                if self._shows(entry):
                    entries.append(entry)
                    if len(entries) % _CHECK_EVERY == 0 and self._stopped():
                        break
        return by_name(entries)

    def _shows(self, entry: os.DirEntry[str]) -> bool:
        name = entry.name
        if name[0] == ".":
            return not self._scope.exclude_hidden and not name.startswith(RESERVED_PREFIX)
        return name not in self._scope.exclude_directories or not is_directory(entry)


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a directory itself; False where the system does not tell."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def by_name(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """Entries in bytewise order of their names.

    Args:
        entries: emptied. Whoever iterates frees each as it goes: to sort or to free all of a large
            directory at once would hold up the event loop.
    """
    runs = [
        sorted(entries[start : start + _RUN], key=name_bytes, reverse=True)
        for start in range(0, len(entries), _RUN)
    ]
    entries.clear()
    if len(runs) == 1:
        return _drain(runs[0])
    return heapq.merge(*map(_drain, runs), key=name_bytes)


def _drain(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    while entries:
        yield entries.pop()


def name_bytes(entry: os.DirEntry[str]) -> bytes:
    """An entry's name as the kernel has it."""
    return os.fsencode(entry.name)
