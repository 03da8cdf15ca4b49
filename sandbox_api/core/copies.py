"""Files and directories copied and moved, placed as cp(1) and mv(1) place them.

Where the destination is a directory, or a link to one, the copy goes into it under the source's
name; else the destination is the copy's name, and its parents are made. That is what the SDKs' `cp`
does when it runs `cp -r` instead.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_api.core.atomic import PATH_LOCKS, make_directories
from sandbox_api.core.conditions import file_version
from sandbox_api.core.copying import Copying
from sandbox_api.core.directories import refuse_protected, remove_tree
from sandbox_api.core.entries import rename_new, rename_over, reserved_beside
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import (
    DEFAULT_DIRECTORY_MODE,
    Location,
    PathResolver,
    printable,
)
from sandbox_api.core.refusals import attempt, operation, refuse_reserved
from sandbox_api.core.regular import entry_status
from sandbox_api.errors import ConflictError, FailedError, NotFoundError, SandboxError

FILE_ALREADY_EXISTS = "FILE_ALREADY_EXISTS"


class Copies:
    """Copies and moves within the sandbox.

    Args:
        threads: where blocking work runs, and as whom.
        paths: what clients' paths mean.
        fsync: whether every write waits for the disk.
    """

    def __init__(self, threads: FileThreads, paths: PathResolver, *, fsync: bool = False) -> None:
        self._threads = threads
        self._paths = paths
        self._fsync = fsync

    async def copy(self, source: str, destination: str, *, exclusive: bool = False) -> str:
        """Copy a file, a link or a directory; what exists is overwritten, directories are merged.

        Args:
            source: a client's path.
            destination: a client's path.
            exclusive: whether everything must be new; then nothing that exists is touched.

        Returns:
            The absolute path of the copy.

        Raises:
            NotFoundError: there is no source.
            ConflictError: the copy's name is taken, where `exclusive`.
            FailedError: `error copying destination …`; what was copied before stays.
        """
        return await self._threads.run(
            self._copy, self._paths.resolve(source), self._paths.resolve(destination), exclusive
        )

    async def move(
        self, source: str, destination: str, *, exclusive: bool = False, force: bool = False
    ) -> str:
        """Move a file, a link or a directory; to another file system by a copy.

        The source stays until all of it is at the destination, where it appears at once.

        Args:
            source: a client's path.
            destination: a client's path.
            exclusive: whether the new name must not be taken.
            force: whether the source may be a directory that the sandbox needs.

        Returns:
            The absolute path under which it is now.

        Raises:
            NotFoundError: there is no source.
            ConflictError: the new name is taken, where `exclusive`.
            FailedError: `error moving destination …`.
        """
        if not force:
            await self._threads.run(self._refuse_protected, self._paths.resolve(source))
        return await self._threads.run(
            self._move, self._paths.resolve(source), self._paths.resolve(destination), exclusive
        )

    def _stopped(self) -> bool:
        return self._threads.closing

    def _copy(self, source: Location, destination: Location, exclusive: bool) -> str:
        status = _source_status(source)
        with _answer("copying", destination):
            target = _place(source, status, destination, exclusive)
            copying = Copying(exclusive=exclusive, sync=self._fsync, stopped=self._stopped)
            copying.run(source.absolute, target)
        return target

    def _refuse_protected(self, source: Location) -> None:
        refuse_protected(source.absolute, self._paths.workdir, self._paths.home, "move")

    def _move(self, source: Location, destination: Location, exclusive: bool) -> str:
        status = _source_status(source)
        with _answer("moving", destination):
            target = _place(source, status, destination, exclusive)
            try:
                _rename(source.absolute, target, exclusive)
            except FailedError as exc:
                if not _is_across(exc):
                    raise
                self._move_across(source.absolute, status, target, exclusive)
        return target

    def _move_across(
        self, source: str, status: os.stat_result, target: str, exclusive: bool
    ) -> None:
        """Copy to another file system under a name of ours, rename, and remove the source."""
        temporary = reserved_beside(target)
        copying = Copying(exclusive=True, keep_owner=True, sync=self._fsync, stopped=self._stopped)
        try:
            copying.run(source, temporary)
            _rename(temporary, target, exclusive)
        except SandboxError:
            _remove(temporary)
            raise
        with attempt("all is there, but the source could not be removed"):
            if stat.S_ISDIR(status.st_mode):
                remove_tree(source)
            else:
                _remove_unchanged(source, status)


def _source_status(source: Location) -> os.stat_result:
    """The status of what is copied or moved, which may be a link."""
    try:
        return entry_status(source)
    except NotFoundError:
        path = printable(source.absolute)
        raise NotFoundError(f"lstat {path}: no such file or directory") from None


def _place(source: Location, status: os.stat_result, destination: Location, exclusive: bool) -> str:
    """Where the source goes, with the directory that it goes into.

    Raises:
        FailedError: it cannot go there; because of a FileExistsError where `exclusive` and the
            name is taken.
    """
    refuse_reserved(destination)
    target = destination.absolute
    if os.path.isdir(target):
        target = posixpath.join(target, source.name)
    if exclusive and os.path.lexists(target):
        with operation("open", target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    _refuse_itself(source.absolute, status, target)
    make_directories(posixpath.dirname(target), DEFAULT_DIRECTORY_MODE)
    return target


def _refuse_itself(source: str, status: os.stat_result, target: str) -> None:
    parent, name = posixpath.split(target)
    real_target = posixpath.join(os.path.realpath(parent), name)
    if stat.S_ISDIR(status.st_mode):
        below = os.path.realpath(source).rstrip("/") + "/"
        if f"{real_target}/".startswith(below):
            raise FailedError(f"{printable(source)} cannot go into itself")
    elif os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise FailedError(f"{printable(source)} and {printable(target)} are the same file")


def _rename(source: str, target: str, exclusive: bool) -> None:
    with operation("rename", target), PATH_LOCKS.hold(source, target):
        if exclusive:
            rename_new(source, target)
        else:
            rename_over(source, target)


def _is_across(exc: SandboxError) -> bool:
    return isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EXDEV


def _remove_unchanged(path: str, status: os.stat_result) -> None:
    """Remove what is no directory, unless somebody has written it since: that was not moved."""
    with operation("remove", path), PATH_LOCKS.hold(path):
        if file_version(os.lstat(path)) != file_version(status):
            raise OSError(errno.ESTALE, "it was changed while it was moved")
        os.unlink(path)


def _remove(path: str) -> None:
    """Remove whatever it is, where it is there."""
    try:
        directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if directory:
        remove_tree(path)
        return
    with operation("remove", path):
        os.unlink(path)


@contextmanager
def _answer(doing: str, destination: Location) -> Iterator[None]:
    """Say in the error what was being done; a name that is taken is a conflict with a code."""
    try:
        with attempt(f"error {doing} destination {printable(destination.shown)}"):
            yield
    except FailedError as exc:
        if isinstance(exc.__cause__, FileExistsError):
            raise ConflictError(exc.message, {"code": FILE_ALREADY_EXISTS}) from exc
        raise
