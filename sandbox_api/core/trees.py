"""Directories with all that is below them: read, written and deleted in one request."""

import asyncio
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.directories import (
    Directory,
    Page,
    Subdirectory,
    describe_entry,
    describe_subdirectory,
    entry_base,
    list_directory,
)
from sandbox_api.core.files import READ_BYTES, Files, decode_content
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.metadata import OwnerNames, raw_path
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.patterns import compile_patterns
from sandbox_api.core.refusals import attempt, operation, refuse_reserved
from sandbox_api.core.regular import READ_FLAGS, follow_status
from sandbox_api.core.tree_write import TreeWrite
from sandbox_api.core.walk import Walk, WalkScope, is_directory
from sandbox_api.errors import (
    DeadlineError,
    FailedError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    os_text,
)

DEFAULT_MAX_FILES = 10_000
DEFAULT_MAX_BYTES = 32 << 20
MOST_FILES = 100_000
READ_DEADLINE_S = 60.0

NO_DIRECTORY = "path is not a directory"
NOT_DELETED = "error deleting directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeQuery:
    """What of a tree is read.

    Attributes:
        content: whether files come with their content.
        encoding: of the content, `utf-8` or `base64`.
        patterns: shell patterns on names, of which a file must fit one; none is all files.
        scope: which directories and names are left out.
        max_files: the most files, and the most directories, at least 0.
        max_bytes: the most bytes of content, at least 0.
        deadline_s: seconds that it may take; a file system may not answer at all.
    """

    content: bool = False
    encoding: str = "utf-8"
    patterns: Sequence[str] = ()
    scope: WalkScope = field(default_factory=WalkScope)
    max_files: int = DEFAULT_MAX_FILES
    max_bytes: int = DEFAULT_MAX_BYTES
    deadline_s: float = READ_DEADLINE_S


class TreeFile(NamedTuple):
    """A file of a tree; the rest as in `FileInfo`.

    Attributes:
        content: None where it was not asked for, or is no regular file, or cannot be read.
        encoding: of the content.
        error: why it cannot be read.
    """

    path: str
    name: str
    raw_path: bytes | None
    mode: int
    size: int
    mtime_ns: int
    owner: str
    group: str
    content: str | None = None
    encoding: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """All that is below a directory, depth first and bytewise by name.

    Attributes:
        unreadable: how many directories could not be read.
    """

    path: str
    name: str
    raw_path: bytes | None
    files: list[TreeFile]
    subdirectories: list[Subdirectory]
    unreadable: int


class Trees:
    """The directories of the sandbox as wholes.

    Args:
        threads: where blocking work runs, and as whom.
        files: what reads and deletes single ones.
        fsync: whether every write waits for the disk.
        max_bytes: the most content that `read` returns.
    """

    def __init__(
        self, threads: FileThreads, files: Files, *, fsync: bool = False, max_bytes: int
    ) -> None:
        self._threads = threads
        self._files = files
        self._fsync = fsync
        self._max_bytes = max_bytes
        self._owners = OwnerNames()

    async def check(self, location: Location) -> None:
        """Refuse what is no directory, with the errors of `list`."""
        await self._threads.run(_require_directory, location)

    async def list(self, location: Location, page: Page | None = None) -> Directory:
        """One level of a directory, or a page of it.

        Raises:
            NotFoundError: there is nothing.
            InvalidError: it is no directory.
            FailedError: `error getting file system tree: open A: …`.
        """
        return await self._threads.run(self._list, location, page)

    async def read(self, location: Location, query: TreeQuery) -> Tree:
        """All that is below a directory.

        Raises:
            NotFoundError: there is nothing.
            InvalidError: it is no directory.
            FailedError: there is more than the query allows, or the directory cannot be read.
            DeadlineError: it takes too long.
        """
        stopped = threading.Event()
        try:
            async with asyncio.timeout(query.deadline_s):
                return await self._threads.run(self._read, location, query, stopped)
        except TimeoutError:
            raise DeadlineError(
                f"error getting file system tree: it takes over {query.deadline_s:g} s; narrow it "
                "by patterns, excludeDirs or excludeHidden, or get the directory with "
                "Accept: application/x-tar"
            ) from None
        finally:
            stopped.set()  # nobody wants any more of it

    async def write(
        self,
        location: Location,
        files: Mapping[str, str | None],
        *,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> Directory:
        """Write many files below a directory, which is made, and list it.

        Args:
            location: the directory.
            files: content by path relative to it; None is an empty file.
            sync: whether to wait for the disk.
            condition: what must hold of the directory, which has no version.

        Raises:
            FailedError: as in `TreeWrite.run`.
            PreconditionError: the condition does not hold.
        """
        refuse_reserved(location)
        return await self._threads.run(
            self._write, location, files, sync=sync or self._fsync, condition=condition
        )

    async def delete(
        self,
        location: Location,
        *,
        recursive: bool = False,
        force: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> None:
        """Delete a directory, or a link to one (never its target); arguments as in `Files.delete`.

        Raises:
            NotFoundError: there is nothing.
            FailedError: it is no directory, or as in `Files.delete`.
        """
        await self._threads.run(_require_directory_to_delete, location)
        await self._files.delete(location, recursive=recursive, force=force, condition=condition)

    def _list(self, location: Location, page: Page | None) -> Directory:
        _require_directory(location)
        with attempt("error getting file system tree"):
            return list_directory(location.absolute, location.shown, self._owners, page)

    def _write(
        self,
        location: Location,
        files: Mapping[str, str | None],
        *,
        sync: bool,
        condition: Condition,
    ) -> Directory:
        write = TreeWrite(location.absolute, files, sync=sync, condition=condition)
        write.run(lambda: self._threads.closing)
        return self._list(location, None)

    def _read(self, location: Location, query: TreeQuery, stopped: threading.Event) -> Tree:
        _require_directory(location)
        self._owners.refresh()
        walk = Walk(
            location.absolute, query.scope, lambda: stopped.is_set() or self._threads.closing
        )
        reading = _Reading(location, query, min(query.max_bytes, self._max_bytes), self._owners)
        with (
            attempt("error getting file system tree"),
            operation("open", location.absolute),
        ):
            for entry in walk:
                if stopped.is_set():
                    break
                reading.take(entry)
        if self._threads.closing:
            raise UnavailableError("the daemon stops")
        return reading.tree(walk.unreadable)


class _Reading:
    """What was read of a tree so far."""

    def __init__(
        self, location: Location, query: TreeQuery, max_bytes: int, owners: OwnerNames
    ) -> None:
        self._location = location
        self._query = query
        self._max_bytes = max_bytes
        self._owners = owners
        self._fits = compile_patterns(query.patterns)
        self._base = entry_base(location.shown)
        self._cut = len(location.absolute.rstrip("/")) + 1
        self._bytes = 0
        self._files: list[TreeFile] = []
        self._subdirectories: list[Subdirectory] = []

    def take(self, entry: os.DirEntry[str]) -> None:
        """Add an entry, where it is asked for.

        Raises:
            FailedError: there is more than was allowed.
        """
        path = self._base + entry.path[self._cut :]
        if is_directory(entry):
            self._subdirectories.append(describe_subdirectory(path, entry.name))
            self._refuse_more(len(self._subdirectories), MOST_FILES, "directories")
        elif self._fits is None or self._fits.fit(entry.name, entry.path[self._cut :]):
            try:
                self._files.append(self._file(entry, path))
            except FileNotFoundError:
                return  # it vanished meanwhile
            self._refuse_more(len(self._files), min(self._query.max_files, MOST_FILES), "files")

    def tree(self, unreadable: int) -> Tree:
        """All that was taken."""
        location = self._location
        return Tree(
            printable(location.shown),
            printable(location.name),
            raw_path(location.shown),
            self._files,
            self._subdirectories,
            unreadable,
        )

    def _refuse_more(self, count: int, limit: int, what: str) -> None:
        if count > limit:
            raise FailedError(
                f"there are more than {limit} {what}; narrow it by patterns, excludeDirs or "
                f"excludeHidden, or raise maxFiles (up to {MOST_FILES})"
            )

    def _file(self, entry: os.DirEntry[str], path: str) -> TreeFile:
        info = TreeFile(*describe_entry(entry, path, self._owners))
        if not self._query.content:
            return info
        try:
            data = self._content(entry.path)
        except OSError as exc:
            return info._replace(error=os_text("open", printable(entry.path), exc))
        if data is None:
            return info
        encoding = self._query.encoding
        return info._replace(content=decode_content(data, encoding), encoding=encoding)

    def _content(self, path: str) -> bytes | None:
        """The bytes of a regular file or of what a link leads to; None of anything else."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return None
            fd = os.open(path, READ_FLAGS)
        except FileNotFoundError:
            return None  # a link to nothing
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            return self._read(fd)
        finally:
            os.close(fd)

    def _read(self, fd: int) -> bytes:
        chunks: list[bytes] = []
        while chunk := os.read(fd, READ_BYTES):
            chunks.append(chunk)
            self._bytes += len(chunk)
            if self._bytes > self._max_bytes:
                raise FailedError(
                    f"the files hold more than {self._max_bytes} bytes; narrow it by patterns, "
                    "excludeDirs or excludeHidden, raise maxBytes, or get the directory with "
                    "Accept: application/x-tar"
                )
        return b"".join(chunks)


def _require_directory(location: Location) -> None:
    if not _is_directory(location, NO_DIRECTORY):
        raise InvalidError(f"{NO_DIRECTORY}: {printable(location.absolute)} is a file")


def _require_directory_to_delete(location: Location) -> None:
    if not _is_directory(location, NOT_DELETED):
        raise FailedError(f"{NOT_DELETED}: path points to a file, not a directory")


def _is_directory(location: Location, otherwise: str) -> bool:
    """Whether something is one; that there is nothing is told after `otherwise`."""
    try:
        return stat.S_ISDIR(follow_status(location).st_mode)
    except NotFoundError as exc:
        raise NotFoundError(f"{otherwise}: {exc.message}") from exc
