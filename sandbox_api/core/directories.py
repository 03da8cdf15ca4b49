"""Directories as a whole: how they are made, what is in them, and how they are removed.

Everything here blocks: run it on file threads.
"""

import errno
import os
import posixpath
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from sandbox_api.core.atomic import PATH_LOCKS, make_directories, target_status
from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.metadata import FileInfo, OwnerNames, describe, describe_unknown, raw_path
from sandbox_api.core.paths import RESERVED_PREFIX, printable
from sandbox_api.core.refusals import operation, refusal
from sandbox_api.core.walk import by_name, is_directory, name_bytes
from sandbox_api.errors import FailedError

SYSTEM_DIRECTORIES = frozenset(
    f"/{name}"
    for name in (
        *("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt"),
        *("opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var"),
    )
)

SMALL_ENTRIES = 500  # what takes about a millisecond to describe

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Subdirectory:
    """A directory in a listing; `raw_path` as in `FileInfo`."""

    path: str
    name: str
    raw_path: bytes | None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing, by name: it stays true while entries come and go.

    Attributes:
        limit: the most entries that are listed, at least 1.
        after: the name, as bytes, after which it begins; empty for the first page.
    """

    limit: int
    after: bytes = b""


@dataclass(frozen=True, slots=True)
class Directory:
    """One level of a directory, both lists sorted bytewise by name.

    Attributes:
        next_after: where the next page begins; None where this is the last or the only one.
    """

    path: str
    name: str
    raw_path: bytes | None
    files: list[FileInfo]
    subdirectories: list[Subdirectory]
    next_after: bytes | None = None


def make_directory(path: str, mode: int, condition: Condition = UNCONDITIONAL) -> None:
    """Make a directory and what is missing above it; of many that may not exist yet one is first.

    Args:
        path: absolute.
        mode: permission bits of every new level.
        condition: what must hold of the directory; it has no version.

    Raises:
        FailedError: `mkdir <the level that failed>: …`.
        PreconditionError: the condition does not hold.
    """
    with operation("mkdir", path):
        condition.check(target_status(path))
        make_directories(posixpath.dirname(path), mode)
        with PATH_LOCKS.hold(path):
            condition.check(target_status(path))
            make_directories(path, mode)


def list_directory(
    path: str, shown: str, owners: OwnerNames, page: Page | None = None
) -> Directory:
    """What is in a directory, hidden names too; links are described, not followed.

    Args:
        path: absolute.
        shown: the same path as the client sees it; entries are shown below it.
        owners: names of users and groups.
        page: which part; None for all.

    Raises:
        FailedError: `open A: …`.
    """
    with operation("open", path), os.scandir(path) as scan:
        entries = [entry for entry in scan if not entry.name.startswith(RESERVED_PREFIX)]
    if page is None:
        return _describe_entries(by_name(entries), path, shown, owners)
    rest = [entry for entry in entries if name_bytes(entry) > page.after]
    chosen = list(islice(by_name(rest), page.limit + 1))
    following = name_bytes(chosen[page.limit - 1]) if len(chosen) > page.limit else None
    directory = _describe_entries(chosen[: page.limit], path, shown, owners)
    return replace(directory, next_after=following)


def list_small_directory(path: str, shown: str, owners: OwnerNames) -> Directory | None:
    """The same, where there are few entries; else None.

    Raises:
        OSError: the system refused.
    """
    with os.scandir(path) as scan:
        entries = list(islice(scan, SMALL_ENTRIES + 1))
    if len(entries) > SMALL_ENTRIES:
        return None
    visible = [entry for entry in entries if not entry.name.startswith(RESERVED_PREFIX)]
    return _describe_entries(by_name(visible), path, shown, owners)


def _describe_entries(
    entries: Iterable[os.DirEntry[str]], path: str, shown: str, owners: OwnerNames
) -> Directory:
    base = entry_base(shown)
    files: list[FileInfo] = []
    subdirectories: list[Subdirectory] = []
    owners.refresh()
    for entry in entries:
        if is_directory(entry):
            subdirectories.append(describe_subdirectory(base + entry.name, entry.name))
        else:
            with suppress(FileNotFoundError):  # it vanished meanwhile
                files.append(describe_entry(entry, base + entry.name, owners))
    name = posixpath.basename(path) or "/"
    return Directory(printable(shown), printable(name), raw_path(shown), files, subdirectories)


def describe_entry(entry: os.DirEntry[str], path: str, owners: OwnerNames) -> FileInfo:
    """What is not a directory; one that the system tells nothing about has only its name.

    Args:
        entry: of a directory.
        path: as the client sees it.
        owners: names of users and groups.

    Raises:
        FileNotFoundError: it vanished meanwhile.
    """
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        return describe_unknown(path, entry.name)
    return describe(path, entry.name, status, owners)


def describe_subdirectory(path: str, name: str) -> Subdirectory:
    """A directory within another; `path` as the client sees it."""
    return Subdirectory(printable(path), printable(name), raw_path(path))


def entry_base(shown: str) -> str:
    """What the names of entries are appended to."""
    cleaned = posixpath.normpath(shown)
    if cleaned == ".":
        return ""
    return cleaned if cleaned.endswith("/") else cleaned + "/"


def refuse_protected(path: str, workdir: str, home: str, verb: str = "delete") -> None:
    """Refuse to delete what would take the sandbox away, by its own name and through links.

    Args:
        path: absolute.
        workdir: absolute; it and what holds it are protected.
        home: the same; may be empty.
        verb: what is refused, for the text.

    Raises:
        FailedError: the text names `?force=true`.
    """
    needed = {workdir, os.path.realpath(workdir)}
    if home:
        needed |= {home, os.path.realpath(home)}
    for candidate in {path, os.path.realpath(path)}:
        below = candidate.rstrip("/") + "/"
        if candidate in SYSTEM_DIRECTORIES or any(f"{n}/".startswith(below) for n in needed):
            raise FailedError(
                f"{printable(path)} is a directory that the sandbox needs; "
                f"to {verb} it all the same, add ?force=true"
            )


def remove_directory(path: str) -> None:
    """Remove a directory that is empty but for abandoned writes of ours.

    Raises:
        FailedError: `remove A: …`.
    """
    with operation("remove", path):
        try:
            os.rmdir(path)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY or not _holds_only_ours(path):
                raise
            remove_tree(path)


def _holds_only_ours(path: str) -> bool:
    with os.scandir(path) as scan:
        return all(entry.name.startswith(RESERVED_PREFIX) for entry in scan)


def remove_tree(path: str) -> None:
    """Remove a directory and all below it, following no link.

    Raises:
        FailedError: `unlinkat <what refused>: …`; what came before it is gone.
    """
    removal = _Removal(path)
    try:
        removal.run()
    except OSError as exc:
        raise refusal("unlinkat", removal.current, exc) from exc
    finally:
        removal.close()


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its name in its parent, its identity, what it still holds."""

    name: str
    identity: tuple[int, int]
    directories: list[str]


class _Removal:
    """One removal of a tree.

    One descriptor is open at a time and nothing recurses, so no depth is too deep. The way back up
    is checked: a directory that someone moves away meanwhile ends the removal.
    """

    def __init__(self, path: str) -> None:
        self._levels: list[_Level] = []
        self._name = path
        self._fd = -1

    @property
    def current(self) -> str:
        """The path that is being worked on."""
        return "/".join([*(level.name for level in self._levels), self._name])

    def run(self) -> None:
        """Remove it all."""
        self._go_down(self._name)
        while self._levels:
            if self._levels[-1].directories:
                self._go_down(self._levels[-1].directories.pop())
            else:
                self._go_up()

    def _go_down(self, name: str) -> None:
        self._name = name
        self._open(name)
        level = _Level(name, _identity(self._fd), [])
        with os.scandir(self._fd) as scan:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
        self._levels.append(level)
        for self._name, descends in entries:
            if descends:
                level.directories.append(self._name)
            else:
                self._remove(os.unlink)

    def _go_up(self) -> None:
        done = self._levels.pop()
        self._name = done.name
        if self._levels:
            self._open("..")
            if _identity(self._fd) != self._levels[-1].identity:
                raise OSError(errno.ESTALE, "it was moved while it was deleted")
        else:
            self.close()
        self._remove(os.rmdir)

    def _open(self, name: str) -> None:
        """Open a neighbour of the open directory, and close that."""
        neighbour = os.open(name, _OPEN, dir_fd=self._parent)
        self.close()
        self._fd = neighbour

    def _remove(self, remove: Callable[..., None]) -> None:
        with suppress(FileNotFoundError):  # someone else was faster
            remove(self._name, dir_fd=self._parent)

    @property
    def _parent(self) -> int | None:
        return self._fd if self._fd >= 0 else None

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
