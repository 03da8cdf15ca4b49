"""Files and directories, one at a time: read, list, open, write, delete.

Every operation runs on the file threads, as the workload user; only small files in directories
that are known to be on a local disk are read on the event loop.
"""

import asyncio
import binascii
import io
import os
import stat
from typing import NamedTuple

from sandbox_api.core.atomic import (
    PATH_LOCKS,
    AtomicFile,
    target_status,
    write_file,
)
from sandbox_api.core.conditions import UNCONDITIONAL, Condition, file_version
from sandbox_api.core.directories import (
    Directory,
    Page,
    list_directory,
    list_small_directory,
    make_directory,
    refuse_protected,
    remove_directory,
    remove_tree,
)
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.local import LocalDirectories
from sandbox_api.core.metadata import OwnerNames, describe
from sandbox_api.core.mounts import is_made_up
from sandbox_api.core.paths import (
    DEFAULT_DIRECTORY_MODE,
    DEFAULT_FILE_MODE,
    Location,
    PathResolver,
    printable,
)
from sandbox_api.core.refusals import attempt, operation, refuse_reserved
from sandbox_api.core.regular import (
    READ_FLAGS,
    OpenedFile,
    entry_status,
    open_regular,
    read_status,
)
from sandbox_api.core.writer import FileWriter
from sandbox_api.errors import TooLargeError

SMALL_BYTES = 64 * 1024
READ_BYTES = 1 << 20

_READ_INSTEAD = "read it with Accept: application/octet-stream"
_SEND_INSTEAD = "send it with Content-Type: application/octet-stream"


class FileContent(NamedTuple):
    """A file with its content as text; the rest as in `FileInfo`.

    Attributes:
        content: UTF-8 text with U+FFFD for what is none, or base64.
        encoding: `utf-8` or `base64`.
        version: as `file_version` tells it; empty where the kernel makes the content up.
    """

    path: str
    name: str
    raw_path: bytes | None
    mode: int
    size: int
    mtime_ns: int
    owner: str
    group: str
    content: str
    encoding: str
    version: str


class Files:
    """The files of the sandbox.

    Args:
        threads: where blocking work runs, and as whom.
        paths: what clients' paths mean.
        fsync: whether every write waits for the disk.
        max_content_bytes: the most that `read` returns and `write` takes of one file.
    """

    def __init__(
        self,
        threads: FileThreads,
        paths: PathResolver,
        *,
        fsync: bool = False,
        max_content_bytes: int = 32 << 20,
    ) -> None:
        self.paths = paths
        self._threads = threads
        self._fsync = fsync
        self._max_content_bytes = max_content_bytes
        self._owners = OwnerNames()
        self._local = LocalDirectories()

    def resolve(self, path: str) -> Location:
        """The location that a client's path names; errors as in `PathResolver.resolve`."""
        return self.paths.resolve(path)

    async def read(
        self, location: Location, encoding: str = "utf-8", page: Page | None = None
    ) -> FileContent | Directory:
        """A file with its content, or a directory's listing.

        Args:
            location: what to read; a symlink is followed.
            encoding: `utf-8` or `base64`.
            page: which part of a listing; None for all.

        Raises:
            NotFoundError: there is nothing.
            ForbiddenError: a directory on the way is closed to the workload user.
            TooLargeError: the content is over the limit.
            FailedError: no regular file, or the system refused.
        """
        if self._threads.inline and encoding == "utf-8" and page is None:
            found = self._read_here(location)
            if found is not None:
                return found
        return await self._threads.run(self._read, location, encoding, page)

    async def list(self, location: Location, page: Page | None = None) -> Directory:
        """One level of a directory, or a page of it.

        Raises:
            FailedError: `error listing directory: open A: …`.
        """
        return await self._threads.run(self._list, location, page)

    async def open(self, location: Location) -> OpenedFile | None:
        """Open a regular file for reading; None when it is a directory that can be listed.

        Raises:
            NotFoundError: there is nothing.
            ForbiddenError: a directory on the way is closed to the workload user.
            FailedError: no regular file, or the system refused.
        """
        opening = asyncio.ensure_future(self._threads.run(self._open, location))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_abandoned)
            raise

    async def write(
        self,
        location: Location,
        data: bytes,
        mode: int | None = None,
        *,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> os.stat_result:
        """Write a whole file; parents are made. Returns its status as it was left.

        Args:
            location: the file; a symlink's target is written.
            data: its content.
            mode: permission bits, for an existing file too; None is 0644 for a new one.
            sync: whether to wait for the disk.
            condition: what must hold of the file.

        Raises:
            TooLargeError: the content is over the limit.
            FailedError: `error writing file: …`; what was there is still there.
            PreconditionError: the condition does not hold.
        """
        if len(data) > (limit := self._max_content_bytes):
            raise _too_large(location.absolute, f"{len(data)} bytes are", limit, _SEND_INSTEAD)
        with attempt("error writing file"):
            refuse_reserved(location)
            return await self._threads.run(
                write_file,
                location.absolute,
                data,
                mode=DEFAULT_FILE_MODE if mode is None else mode,
                change_mode=mode,
                sync=sync or self._fsync,
                condition=condition,
            )

    def writer(
        self, location: Location, *, sync: bool = False, condition: Condition = UNCONDITIONAL
    ) -> FileWriter:
        """A writer that takes a file's content in pieces; use it as an async context.

        Args:
            location: the file; a symlink's target is written.
            sync: whether to wait for the disk.
            condition: what must hold of the file.

        Raises:
            FailedError: the name is reserved.
        """
        refuse_reserved(location)
        file = AtomicFile(location.absolute, sync=sync or self._fsync, condition=condition)
        return FileWriter(self._threads, file)

    async def make_directory(
        self,
        location: Location,
        mode: int | None = None,
        *,
        condition: Condition = UNCONDITIONAL,
    ) -> None:
        """Make a directory and what is missing above it; an existing one stays as it is.

        Args:
            location: the directory.
            mode: permission bits of every new level; None is 0755.
            condition: what must hold of the directory; it has no version.

        Raises:
            FailedError: `error creating directory: mkdir …`.
            PreconditionError: the condition does not hold.
        """
        with attempt("error creating directory"):
            refuse_reserved(location)
            await self._threads.run(
                make_directory,
                location.absolute,
                DEFAULT_DIRECTORY_MODE if mode is None else mode,
                condition,
            )

    async def delete(
        self,
        location: Location,
        *,
        recursive: bool = False,
        force: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> bool:
        """Delete a file, a link (never its target) or a directory; True for a directory.

        Args:
            location: what to delete.
            recursive: whether a directory may hold something.
            force: whether it may be a directory that the sandbox needs.
            condition: what must hold of the file, or of the one that a link leads to.

        Raises:
            NotFoundError: there is nothing.
            FailedError: it is protected, not empty, or the system refused.
            PreconditionError: the condition does not hold.
        """
        return await self._threads.run(self._delete, location, recursive, force, condition)

    def _read_here(self, location: Location) -> FileContent | Directory | None:
        """What is small and on a local disk, so that nothing waits; None where that is uncertain.

        Refusals are uncertain too: the file threads find them again, and their text.
        """
        path = location.absolute
        if location.reserved:
            return None
        try:
            if self._local.knows(path):
                return list_small_directory(path, self._shown_directory(location), self._owners)
            if self._local.knows(location.parent):
                return self._read_small(location)
        except OSError:
            return None
        return None

    def _read_small(self, location: Location) -> FileContent | None:
        status = os.lstat(location.absolute)
        if not stat.S_ISREG(status.st_mode) or status.st_size > SMALL_BYTES:
            return None
        fd = os.open(location.absolute, READ_FLAGS | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            data = os.read(fd, SMALL_BYTES + 1)
        finally:
            os.close(fd)
        if len(data) > SMALL_BYTES:
            return None
        return self._content(location, status, data, "utf-8")

    def _read(
        self, location: Location, encoding: str, page: Page | None
    ) -> FileContent | Directory:
        status = read_status(location)
        if stat.S_ISDIR(status.st_mode):
            return self._list(location, page)
        with attempt("error reading file"):
            fd, status = open_regular(location.absolute, status)
            try:
                with operation("read", location.absolute):
                    data = self._read_all(fd, location.absolute, status.st_size)
            finally:
                os.close(fd)
        self._local.learn(location.parent)
        return self._content(location, status, data, encoding)

    def _read_all(self, fd: int, path: str, size: int = 0) -> bytes:
        limit = self._max_content_bytes
        if size > limit:
            raise _too_large(path, f"{size} bytes are", limit)
        data = bytearray()
        while chunk := os.read(fd, READ_BYTES):
            data += chunk
            if len(data) > limit:
                raise _too_large(path, "it is", limit)
        return bytes(data)

    def _content(
        self, location: Location, status: os.stat_result, data: bytes, encoding: str
    ) -> FileContent:
        self._owners.refresh()
        info = describe(location.shown, location.name, status, self._owners)
        version = "" if data and is_made_up(status) else file_version(status)
        return FileContent(*info, decode_content(data, encoding), encoding, version)

    def _list(self, location: Location, page: Page | None) -> Directory:
        with attempt("error listing directory"):
            shown = self._shown_directory(location)
            directory = list_directory(location.absolute, shown, self._owners, page)
        self._local.learn(location.absolute)
        return directory

    def _shown_directory(self, location: Location) -> str:
        return self.paths.workdir if location.shown in {".", "./"} else location.shown

    def _open(self, location: Location) -> OpenedFile | None:
        path = location.absolute
        status = read_status(location)
        if stat.S_ISDIR(status.st_mode):
            with attempt("error listing directory"), operation("open", path):
                os.close(os.open(path, READ_FLAGS | os.O_DIRECTORY))
            return None
        with attempt("error opening file"):
            fd, status = open_regular(path, status)
            file = io.FileIO(fd, "rb")
            content = None
            if is_made_up(status):
                with operation("read", path):
                    content = self._read_all(fd, path) or None
        return OpenedFile(location.name, file, status, content)

    def _delete(
        self, location: Location, recursive: bool, force: bool, condition: Condition
    ) -> bool:
        path = location.absolute
        status = entry_status(location)
        if not force:
            refuse_protected(path, self.paths.workdir, self.paths.home)
        if not stat.S_ISDIR(status.st_mode):
            with attempt("error deleting file"), operation("remove", path), PATH_LOCKS.hold(path):
                condition.check(target_status(path))
                os.unlink(path)
            return False
        condition.check(status)
        with attempt("error deleting directory"):
            if recursive:
                remove_tree(path)
            else:
                remove_directory(path)
        return True


def decode_content(data: bytes, encoding: str) -> str:
    """Content as text: base64, or UTF-8 in which U+FFFD stands for what is none."""
    if encoding == "base64":
        return binascii.b2a_base64(data, newline=False).decode()
    return data.decode("utf-8", "replace")


def _too_large(path: str, what: str, limit: int, instead: str = _READ_INSTEAD) -> TooLargeError:
    return TooLargeError(
        f"{printable(path)}: {what} over the limit of {limit} bytes for JSON; {instead}"
    )


def _close_abandoned(opening: "asyncio.Future[OpenedFile | None]") -> None:
    """Close a file that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opened = opening.result()
        if opened is not None:
            opened.file.close()
