"""The one walk over what lies below a directory: for trees, archives and searches.

Everything here blocks: run it on file threads.
"""

import heapq
import os
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final, Protocol, TypeVar

from sandbox_api.core.ignores import Ignores, ignores_above, ignores_of
from sandbox_api.core.mounts import kernel_mounts_below
from sandbox_api.core.paths import RESERVED_PREFIX

SEARCH_EXCLUDES: Final = frozenset(
    {"node_modules", "vendor", ".git", "dist", "build", "target", "__pycache__"}
    | {".venv", ".next", "coverage"}
)
"""Directories that searches leave out unless they are told others (spec/filesystem.md 9)."""

_RUN = 4096  # entries that are sorted at once: a longer sort would hold up the event loop
_CHECK_EVERY = 1024  # entries of one directory between two looks whether to stop

_name = attrgetter("name")


class Entry(Protocol):
    """What a walk has to know of an entry; `os.DirEntry` says all of it."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    def is_dir(self, *, follow_symlinks: bool) -> bool: ...


E = TypeVar("E", bound=Entry)
Run = tuple[bool, Sequence[E]]
"""Some entries, and whether they are directories: then it is one."""

Unread = list[tuple[str, Ignores | None]]
"""Paths of directories that are to be read, and the rules of those that they are in."""

Pieces = Iterator[Sequence[Entry]]
"""What is in one directory; raises OSError where it cannot be read, or is a link."""

Listings = Callable[[Unread], Generator[tuple[str, Ignores | None, Pieces]]]
"""Takes directories out of a list and reads them, until it is empty; meanwhile more come in."""


@dataclass(frozen=True, slots=True)
class WalkScope:
    """What a walk leaves out. Names are compared exactly; the start itself is never left out.

    Attributes:
        exclude_directories: base names of directories that are neither shown nor entered.
        exclude_hidden: whether names that begin with a dot are left out.
        gitignore: whether what `.gitignore` files name is left out, and `.git`. They count from
            the root of the repository on, in which the start lies.
    """

    exclude_directories: frozenset[str] = frozenset()
    exclude_hidden: bool = False
    gitignore: bool = False


class Walk:
    """One walk, depth first and bytewise by name unless order does not matter; to be taken once.

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
        self._closed: Container[str] = ()
        self._ignores = [ignores_above(root) if self._scope.gitignore else None]

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        """The entries.

        Raises:
            OSError: the root cannot be read.
        """
        for _, entries in self.runs():
            yield from entries

    def runs(self) -> Generator[Run[os.DirEntry[str]]]:
        """The entries in runs: one directory, or what is none and stands side by side.

        Raises:
            OSError: the root cannot be read.
        """
        excluded = self._scope.exclude_directories
        levels = [_runs(self._read(self._root), excluded)]
        self._closed = kernel_mounts_below(self._root)
        while levels:
            if self._stopped():
                return
            for run in levels[-1]:
                yield run
                if run[0]:
                    levels.append(_runs(self._read_below(run[1][0].path), excluded))
                    break
            else:
                levels.pop()
                self._ignores.pop()

    def unordered(self, listings: Listings) -> Generator[Run[Entry]]:
        """The same runs in any order, but for a directory before what is in it: that is faster.

        Of a directory that fails in the middle the first part is shown here; in order nothing of it
        is, as all of it is read before.

        Args:
            listings: reads the directories below the root.

        Raises:
            OSError: the root cannot be read.
        """
        unread: Unread = []
        self._closed = kernel_mounts_below(self._root)
        yield from self._spread(self._root, self._ignores[-1], scan(self._root), unread)
        with closing(listings(unread)) as below:
            for path, above, pieces in below:
                if self._stopped():
                    return
                try:
                    yield from self._spread(path, above, pieces, unread)
                except OSError:
                    self.unreadable += 1

    def _spread(
        self, path: str, above: Ignores | None, pieces: Iterable[Sequence[E]], unread: Unread
    ) -> Iterator[Run[E]]:
        """The runs of one directory; those in it that are to be entered are added to `unread`."""
        ignores = ignores_of(path, above) if self._scope.gitignore else None
        for some in pieces:
            if self._stopped():
                return
            for run in _runs(iter(self._shown(some, ignores)), self._scope.exclude_directories):
                yield run
                if run[0] and (below := run[1][0].path) not in self._closed:
                    unread.append((below, ignores))

    def _read_below(self, path: str) -> Iterator[os.DirEntry[str]]:
        if path not in self._closed:
            try:
                return self._read(path)
            except OSError:
                self.unreadable += 1
        self._ignores.append(None)
        return iter(())

    def _read(self, path: str) -> Iterator[os.DirEntry[str]]:
        """What is shown of a directory, in order; the rules that hold in it become the last."""
        ignores = ignores_of(path, self._ignores[-1]) if self._scope.gitignore else None
        entries: list[os.DirEntry[str]] = []
        for some in scan(path):
            entries += self._shown(some, ignores)
            if len(some) == _CHECK_EVERY and self._stopped():
                break
        self._ignores.append(ignores)
        return by_name(entries)

    def _shown(self, entries: Sequence[E], ignores: Ignores | None) -> Sequence[E]:
        """Which of some entries are shown, but for excluded directories, which `_runs` leaves out.

        Most often all of them are: that is seen without a look at each.
        """
        begins = "/" + "/".join(map(_name, entries))
        hidden = "/." if self._scope.exclude_hidden else f"/{RESERVED_PREFIX}"
        if hidden in begins:
            entries = [entry for entry in entries if not entry.name.startswith(hidden[1:])]
        if self._scope.gitignore:
            entries = [entry for entry in entries if not _is_ignored(entry, ignores)]
        return entries


def scan(path: str) -> Generator[list[os.DirEntry[str]]]:
    """What is in a directory, in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with os.scandir(path) as entries:
        while len(some := list(islice(entries, _CHECK_EVERY))) == _CHECK_EVERY:
            yield some
        yield some


def _runs(entries: Iterator[E], excluded: Container[str]) -> Iterator[Run[E]]:
    """The runs of one directory, in order, without the directories of certain names."""
    while some := list(islice(entries, _RUN)):
        begin = 0
        for place in _directories(some):
            if begin < place:
                yield False, some[begin:place]
            if some[place].name not in excluded:
                yield True, [some[place]]
            begin = place + 1
        if begin < len(some):
            yield False, some[begin:]


def _directories(entries: Sequence[E]) -> list[int]:
    """The places of the directories among some entries."""
    try:
        return [n for n, entry in enumerate(entries) if entry.is_dir(follow_symlinks=False)]
    except OSError:  # of some entry the system does not tell
        return [n for n, entry in enumerate(entries) if is_directory(entry)]


def _is_ignored(entry: Entry, ignores: Ignores | None) -> bool:
    if entry.name == ".git":
        return True
    return ignores is not None and ignores.ignore(entry.path, entry.name, is_directory(entry))


def is_directory(entry: Entry) -> bool:
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
    # characters and their bytes in UTF-8 have one order; what is no UTF-8 has another
    key = _name if "".join(map(_name, entries)).isascii() else name_bytes
    if len(entries) <= _RUN:
        ordered = sorted(entries, key=key)
        entries.clear()
        return iter(ordered)
    runs = [
        sorted(entries[start : start + _RUN], key=key, reverse=True)
        for start in range(0, len(entries), _RUN)
    ]
    entries.clear()
    return heapq.merge(*map(_drain, runs), key=key)


def _drain(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    while entries:
        yield entries.pop()


def name_bytes(entry: os.DirEntry[str]) -> bytes:
    """An entry's name as the kernel has it."""
    return os.fsencode(entry.name)
