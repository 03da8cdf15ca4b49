"""Going into a directory: a kernel watch of it and of all below it, and what is in it already.

Names are looked up in open directories, so a rename further up changes nothing. A directory gets
its watch before it is listed: what is made in between shows up both ways, and never in neither.

Everything here blocks: run it on file threads.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sandbox_api.core.paths import RESERVED_PREFIX
from sandbox_api.core.renames import Identity
from sandbox_api.core.walk import is_directory
from sandbox_api.core.watch.directory import Directory
from sandbox_api.errors import UnavailableError, os_reason

NAMES_AT_ONCE: Final = 256

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_BELOW = _ROOT | os.O_NOFOLLOW
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Entered(NamedTuple):
    """A directory has its kernel watch; it is not bound yet."""

    directory: Directory
    identity: Identity


class Names(NamedTuple):
    """Some of what is in a directory."""

    directory: Directory
    names: list[str]


class Refused(NamedTuple):
    """A directory cannot be watched for want of something."""

    path: str
    name: str
    reason: str


class Displaced(NamedTuple):
    """The directory that holds what was to be entered is not at its path any more."""

    parent: Directory
    name: str


Piece = Entered | Names | Refused | Displaced


@dataclass(frozen=True, slots=True)
class Scope:
    """What a scan does.

    Attributes:
        recursive: whether directories below are entered.
        announce: whether it lists the names of what is there.
        ignores: whether the path of a directory is not to be watched.
        skipped_devices: file systems that are not entered.
    """

    recursive: bool
    announce: bool
    ignores: Callable[[str], bool] = lambda _: False
    skipped_devices: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Level:
    fd: int
    directory: Directory
    path: str
    names: list[str] = field(default_factory=list)


class Scanner:
    """One scan, depth first; iterate over it once and close it.

    Args:
        add: adds a kernel watch for a path; returns its descriptor.
        scope: what it does.
    """

    def __init__(self, add: Callable[[str], int], scope: Scope) -> None:
        self._add = add
        self._scope = scope
        self._levels: list[_Level] = []

    def scan_root(self, root: Directory) -> Iterator[Piece]:
        """The root of a watch, which may be a link to a directory, and what is below it.

        Raises:
            OSError: it cannot be opened or watched.
            UnavailableError: there are not enough kernel watches.
        """
        path = root.path
        yield from self._enter(os.open(path or "/", _ROOT), root, path)
        yield from self._descend()

    def scan_below(self, parent: Directory, identity: Identity, name: str) -> Iterator[Piece]:
        """A directory in one that is followed, and what is below it.

        Args:
            parent: the directory that holds it.
            identity: of that directory, which may have been moved meanwhile.
            name: its name there.
        """
        path = parent.path
        try:
            place = os.open(path or "/", _PLACE)
        except OSError:
            yield Displaced(parent, name)
            return
        try:
            status = os.fstat(place)
            if (status.st_dev, status.st_ino) != identity:
                yield Displaced(parent, name)
                return
            yield from self._try_entering(place, parent, path, name)
        finally:
            os.close(place)
        yield from self._descend()

    def close(self) -> None:
        """Give descriptors back."""
        while self._levels:
            os.close(self._levels.pop().fd)

    def _descend(self) -> Iterator[Piece]:
        while self._levels:
            level = self._levels[-1]
            if level.names:
                name = level.names.pop()
                yield from self._try_entering(level.fd, level.directory, level.path, name)
            else:
                os.close(self._levels.pop().fd)

    def _try_entering(
        self, parent_fd: int, parent: Directory, parent_path: str, name: str
    ) -> Iterator[Piece]:
        """Enter a directory; one that has gone or cannot be read is left out."""
        try:
            fd = os.open(name, _BELOW, dir_fd=parent_fd)
        except OSError as exc:
            if exc.errno in _SHORTAGES:
                yield Refused(parent_path, name, os_reason(exc))
            return
        directory = Directory(parent.listener, name, parent)
        try:
            yield from self._enter(fd, directory, f"{parent_path}/{name}")
        except UnavailableError as exc:
            yield Refused(parent_path, name, exc.message)
        except OSError:
            return

    def _enter(self, fd: int, directory: Directory, path: str) -> Iterator[Piece]:
        """Watch an open directory and list it; from here on the descriptor is this object's."""
        level = _Level(fd, directory, path)
        self._levels.append(level)
        try:
            status = os.fstat(fd)
            if self._levels[1:] and status.st_dev in self._scope.skipped_devices:
                return
            directory.wd = self._add(_descriptor_path(fd, path))
        except BaseException:
            os.close(self._levels.pop().fd)
            raise
        yield Entered(directory, (status.st_dev, status.st_ino))
        if self._scope.recursive or self._scope.announce:
            yield from self._list(level)

    def _list(self, level: _Level) -> Iterator[Piece]:
        scope, names = self._scope, []
        with os.scandir(level.fd) as scan:
            for entry in scan:
                if entry.name.startswith(RESERVED_PREFIX):
                    continue
                names.append(entry.name)
                if scope.recursive and is_directory(entry) and self._wants(level, entry.name):
                    level.names.append(entry.name)
                if len(names) == NAMES_AT_ONCE:
                    if scope.announce:
                        yield Names(level.directory, names)
                    names = []
        if scope.announce and names:
            yield Names(level.directory, names)

    def _wants(self, level: _Level, name: str) -> bool:
        return not self._scope.ignores(f"{level.path}/{name}")


def _descriptor_path(fd: int, path: str) -> str:
    """A name of an open directory that no rename changes; its path where /proc is missing."""
    name = f"/proc/self/fd/{fd}"
    return name if os.path.exists(name) else path
