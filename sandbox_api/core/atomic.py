"""Writes that are whole or did not happen (G20), for single files, trees, uploads and copies.

The bytes go to a temporary file beside the target and reach their name by rename(2). Where a rename
would lose something (design: hard links, another owner, attributes that cannot be set) or cannot
work (a bind-mounted file), the finished temporary file is copied into the target. Only where no
temporary file can be made at all (a directory that cannot be written, /proc, /sys, a device) do
bytes go straight to the target.

Everything here blocks: run it on file threads.
"""

import errno
import os
import secrets
import stat
import threading
from contextlib import suppress
from typing import Final

from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.pathlocks import PathLocks
from sandbox_api.core.paths import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, RESERVED_PREFIX
from sandbox_api.core.ranges import copy_range
from sandbox_api.core.refusals import operation

_PRIVATE = 0o600  # until the last moment nobody but the writer can read what is not finished
_EXISTING = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TEMPORARY = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# A directory that takes no new file, while a file in it may well be writable.
NO_TEMPORARY = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTSUP, errno.ENOSYS}
)
# A name that takes no rename: a mount point, another's file in a sticky directory.
_NO_RENAME = frozenset({errno.EBUSY, errno.EPERM, errno.EACCES, errno.EXDEV})

# Who takes the place of a file, or takes it away, holds its lock. One table for the process, since
# the files are the same whoever asks.
PATH_LOCKS: Final = PathLocks()


class AtomicFile:
    """One write of one file; nothing is touched before the first `write` or `commit`.

    Safe to discard from another thread while a call is under way.

    Args:
        path: absolute; parents are created.
        sync: whether `commit` waits for the disk, to survive a loss of power.
        condition: what must hold of the target, before the first byte and when it is replaced;
            where bytes go straight to the target, only before the first.
        follow: whether a symlink's target is what is written; else the file takes its place.
    """

    def __init__(
        self,
        path: str,
        *,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
        follow: bool = True,
    ) -> None:
        self.path = path
        self._follows = follow
        self._sync = sync
        self._condition = condition
        self._lock = threading.Lock()
        self._target = path
        self._exists = False
        self._temporary = ""
        self._emptied = False
        self._ended = False
        self._fd = -1

    def _open(self) -> int:
        status = _entry_status(self.path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            if not self._follows:
                return self._open_new()
            self._target = os.path.realpath(self.path)
            status = target_status(self._target)
        if status is not None:
            _refuse_unwritable(self._target, status)
        self._condition.check(status)
        if status is None:
            return self._open_new()
        self._exists = True
        if not stat.S_ISREG(status.st_mode):
            return os.open(self._target, _EXISTING)
        try:
            return self._open_temporary()
        except OSError as exc:
            if exc.errno not in NO_TEMPORARY:
                raise
            return os.open(self._target, _EXISTING)

    def _open_new(self) -> int:
        try:
            return self._open_temporary()
        except (FileNotFoundError, NotADirectoryError):
            make_directories(os.path.dirname(self._target), DEFAULT_DIRECTORY_MODE)
            return self._open_temporary()

    def _open_temporary(self) -> int:
        name = RESERVED_PREFIX + secrets.token_hex(8)
        temporary = os.path.join(os.path.dirname(self._target), name)
        fd = os.open(temporary, _TEMPORARY, _PRIVATE)
        self._temporary = temporary
        return fd

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            FailedError: `open A: …`, or `write A: …` as when the disk is full.
        """
        with self._lock:
            output = self._output()
            with operation("write", self.path):
                write_all(output, data)

    def append_range(self, source: int, offset: int, count: int) -> None:
        """Append bytes of another file, within the kernel.

        Args:
            source: open for reading.
            offset: of the first byte.
            count: bytes.

        Raises:
            FailedError: as in `write`.
        """
        with self._lock:
            output = self._output()
            with operation("write", self.path):
                copy_range(source, output, offset, count)

    def _output(self) -> int:
        """Where bytes go: the temporary file, else the target itself, emptied first."""
        with operation("open", self.path):
            if self._ended:
                raise OSError(errno.EBADF, "the write was given up")
            if self._fd < 0:
                self._fd = self._open()
            if not self._temporary and not self._emptied:
                _truncate(self._fd)
                self._emptied = True
        return self._fd

    def commit(
        self, mode: int = DEFAULT_FILE_MODE, change_mode: int | None = None
    ) -> os.stat_result:
        """Let the target have the new content, and end.

        Args:
            mode: permission bits of a file that did not exist, exactly as they will be.
            change_mode: new permission bits of a file that existed; None keeps its own.

        Returns:
            The status of the target as it was left.

        Raises:
            FailedError: the target keeps its old content (unless it is written in place).
            PreconditionError: the same, since the condition does not hold.
        """
        with self._lock, operation("open", self.path):
            self._output()
            with PATH_LOCKS.hold(self._target):
                written = self._take_place(mode, change_mode)
        self.discard()
        return written

    def _take_place(self, mode: int, change_mode: int | None) -> os.stat_result:
        if not self._temporary:
            return self._finish_in_place(change_mode)
        status = target_status(self._target)
        self._condition.check(status)
        if not self._exists or status is None:
            os.fchmod(self._fd, mode)
            self._rename()
        elif not self._replace(status, change_mode):
            return self._copy_into_place(change_mode)
        return os.fstat(self._fd)

    def _replace(self, status: os.stat_result, change_mode: int | None) -> bool:
        """Rename over the target; False where that would lose something or cannot work."""
        if status.st_nlink > 1 or not inherit(self._target, self._fd, status, change_mode):
            return False
        try:
            self._rename()
        except OSError as exc:
            if exc.errno in _NO_RENAME:
                return False
            raise
        return True

    def _rename(self) -> None:
        if self._sync:
            os.fsync(self._fd)
        os.rename(self._temporary, self._target)
        self._temporary = ""
        if self._sync:
            _sync_directory(os.path.dirname(self._target))

    def _finish_in_place(self, change_mode: int | None) -> os.stat_result:
        if change_mode is not None:
            os.fchmod(self._fd, change_mode)
        if self._sync:
            os.fsync(self._fd)
        return os.fstat(self._fd)

    def _copy_into_place(self, change_mode: int | None) -> os.stat_result:
        target = os.open(self._target, _EXISTING)
        try:
            if change_mode is not None:
                os.fchmod(target, change_mode)
            _truncate(target)
            with operation("write", self.path):
                copy_range(self._fd, target, 0, os.fstat(self._fd).st_size)
            if self._sync:
                os.fsync(target)
            return os.fstat(target)
        finally:
            os.close(target)

    def discard(self) -> None:
        """Give up what is not committed: the target stays as it was. Does nothing twice."""
        with self._lock:
            self._ended = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._temporary:
                self._drop_temporary()
                self._temporary = ""

    def _drop_temporary(self) -> None:
        unlink_quietly(self._temporary)


def write_file(
    path: str,
    data: bytes,
    *,
    mode: int = DEFAULT_FILE_MODE,
    change_mode: int | None = None,
    sync: bool = False,
    condition: Condition = UNCONDITIONAL,
) -> os.stat_result:
    """Write a whole file at once; arguments, result and errors as in `AtomicFile`."""
    file = AtomicFile(path, sync=sync, condition=condition)
    try:
        file.write(data)
        return file.commit(mode, change_mode)
    finally:
        file.discard()


def make_directories(path: str, mode: int) -> None:
    """Create a directory and all that are missing above it, each with exactly this mode.

    A directory that exists keeps its mode; a set-group-ID bit that a new one inherits stays.

    Args:
        path: absolute.
        mode: permission bits.

    Raises:
        FailedError: `mkdir <the level that failed>: …`.
    """
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for level in reversed(missing):
        with operation("mkdir", level):
            _make_directory(level, mode)


def _make_directory(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode & 0o777)
    except FileExistsError:
        if os.path.isdir(path):
            return  # another writer was faster
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    actual = stat.S_IMODE(os.stat(path).st_mode)
    wanted = mode | (actual & stat.S_ISGID)
    if actual != wanted:  # the umask trimmed it, or it has special bits
        os.chmod(path, wanted)


def target_status(path: str) -> os.stat_result | None:
    """The status of what a path leads to; None where there is nothing."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _entry_status(path: str) -> os.stat_result | None:
    """The status of what has this name, which may be a link; None where there is nothing."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refuse_unwritable(path: str, status: os.stat_result) -> None:
    """Refuse what is there and may not be written.

    A rename needs no right to write the file that it replaces, a write does: so ask.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EINVAL, "is a fifo or a socket, which cannot be written")
    if not os.access(path, os.W_OK, effective_ids=True):
        with suppress(FileNotFoundError):  # it vanished just now, so it is a new file
            os.close(os.open(path, _EXISTING))  # raises the kernel's own reason


def inherit(source: str | int, fd: int, status: os.stat_result, change_mode: int | None) -> bool:
    """Give a file what another has; False where the system refuses.

    Args:
        source: path or descriptor of the other.
        fd: the file.
        status: of the other, whose owner and mode it takes.
        change_mode: permission bits instead of the other's.
    """
    try:
        own = os.fstat(fd)
        if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
            os.fchown(fd, status.st_uid, status.st_gid)
        _copy_attributes(source, fd)
        os.fchmod(fd, stat.S_IMODE(status.st_mode) if change_mode is None else change_mode)
    except OSError:
        return False
    return True


def _copy_attributes(source: str | int, fd: int) -> None:
    wanted, present = _attributes(source), _attributes(fd)
    for name in present:
        if name not in wanted and not name.startswith("security."):
            os.removexattr(fd, name)  # such as an access list that the directory hands down
    for name in wanted:
        if name != "security.capability":  # a write takes it away in any case (capabilities(7))
            os.setxattr(fd, name, os.getxattr(source, name))


def _attributes(file: str | int) -> list[str]:
    try:
        return os.listxattr(file)
    except OSError:
        return []  # a file system without extended attributes


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of it, or raise: on a disk that becomes full write(2) takes a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _truncate(fd: int) -> None:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.ftruncate(fd, 0)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unlink_quietly(path: str) -> None:
    """Remove a file where that is possible."""
    try:
        os.unlink(path)
    except OSError:
        return  # its directory is gone, or became read-only: nothing is left to do
