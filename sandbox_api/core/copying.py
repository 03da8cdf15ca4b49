"""One copy of a file, a link, or a directory with all that is in it.

Everything here blocks: run it on file threads.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sandbox_api.core import linux
from sandbox_api.core.atomic import AtomicFile, write_all
from sandbox_api.core.entries import rename_new, replace_entry
from sandbox_api.core.mounts import is_made_up, read_made_up
from sandbox_api.core.paths import RESERVED_PREFIX
from sandbox_api.core.ranges import copy_range
from sandbox_api.core.refusals import operation
from sandbox_api.core.regular import READ_FLAGS
from sandbox_api.errors import UnavailableError

PIECE_BYTES = 256 << 20  # what is copied between two looks whether to stop

_UNFINISHED = 0o700  # the mode of a directory until all is in it
_SET_ID = stat.S_ISUID | stat.S_ISGID  # they mean something else on a file of another owner
_NO_LINK = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP})


class Copying:
    """One copy, with modes, times, extended attributes, holes and hard links.

    A file is there as a whole or not at all; a link is copied as a link. What exists is
    overwritten, a directory that exists is merged and keeps its mode. Where `exclusive`, everything
    is created in one step that fails when its name is taken.

    Args:
        exclusive: whether nothing that exists may be touched.
        keep_owner: whether owners are kept, as far as the system allows.
        sync: whether each file waits for the disk.
        stopped: asked now and then whether to give up.
    """

    def __init__(
        self,
        *,
        exclusive: bool,
        keep_owner: bool = False,
        sync: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._exclusive = exclusive
        self._keep_owner = keep_owner
        self._sync = sync
        self._stopped = stopped
        self._linked: dict[tuple[int, int], str] = {}
        self._pending: list[Callable[[], None]] = []

    def run(self, source: str, target: str) -> None:
        """Copy.

        Args:
            source: absolute; a link is not followed.
            target: absolute; the name of the copy, in a directory that exists.

        Raises:
            FailedError: the system refused, because of a FileExistsError where `exclusive` and the
                name is taken. What was copied before stays.
            UnavailableError: it was stopped, or the system is short of something.
        """
        self._pending.append(partial(self._copy, source, target))
        while self._pending:
            self._check_stopped()
            self._pending.pop()()

    def _check_stopped(self) -> None:
        if self._stopped():
            raise UnavailableError("the daemon stops; the copy is not complete")

    def _copy(self, source: str, target: str) -> None:
        with operation("lstat", source):
            status = os.lstat(source)
        if stat.S_ISDIR(status.st_mode):
            self._copy_directory(source, target, status)
        elif stat.S_ISREG(status.st_mode):
            self._copy_file(source, target, status)
        elif stat.S_ISLNK(status.st_mode):
            with operation("symlink", target):
                self._put(target, partial(os.symlink, os.readlink(source)))
                self._keep(source, target, status)
        else:
            with operation("open", source):
                raise OSError(errno.EINVAL, "is a fifo, a socket or a device, which is not copied")

    def _copy_directory(self, source: str, target: str, status: os.stat_result) -> None:
        with operation("open", source), os.scandir(source) as scan:
            names = sorted(e.name for e in scan if not e.name.startswith(RESERVED_PREFIX))
        with operation("mkdir", target):
            try:
                os.mkdir(target, _UNFINISHED)
                self._pending.append(partial(self._finish_directory, source, target, status))
            except FileExistsError:
                if self._exclusive:
                    raise
                if not stat.S_ISDIR(os.lstat(target).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        self._pending += [
            partial(self._copy, posixpath.join(source, name), posixpath.join(target, name))
            for name in reversed(names)
        ]

    def _finish_directory(self, source: str, target: str, status: os.stat_result) -> None:
        with operation("chmod", target):
            self._keep(source, target, status)
            os.chmod(target, stat.S_IMODE(status.st_mode))

    def _copy_file(self, source: str, target: str, status: os.stat_result) -> None:
        if status.st_nlink > 1 and self._link(target, status):
            return
        with operation("open", source):
            fd = os.open(source, READ_FLAGS | os.O_NOFOLLOW)
        try:
            self._copy_open_file(fd, target, os.fstat(fd))
        finally:
            os.close(fd)

    def _copy_open_file(self, source: int, target: str, status: os.stat_result) -> None:
        kept = _SET_ID if self._keep_owner else 0
        mode = stat.S_IMODE(status.st_mode) & (~_SET_ID | kept)

        def fill(output: int) -> None:
            self._copy_content(source, output, status)
            self._keep(source, output, status)

        file = (_NewFile if self._exclusive else _File)(target, sync=self._sync)
        try:
            file.fill(fill)
            file.commit(mode, change_mode=mode)
        finally:
            file.discard()

    def _copy_content(self, source: int, target: int, status: os.stat_result) -> None:
        size = status.st_size
        if is_made_up(status):
            write_all(target, read_made_up(source))
        elif not linux.clone_file(source, target):
            offset = 0
            while (begin := linux.next_data(source, offset)) < size:
                offset = linux.next_hole(source, begin)
                self._copy_extent(source, target, begin, min(offset, size))
            os.ftruncate(target, size)

    def _copy_extent(self, source: int, target: int, begin: int, end: int) -> None:
        os.lseek(target, begin, os.SEEK_SET)
        for offset in range(begin, end, PIECE_BYTES):
            self._check_stopped()
            copy_range(source, target, offset, min(PIECE_BYTES, end - offset))

    def _link(self, target: str, status: os.stat_result) -> bool:
        """Link to the copy of another name of the same file; False where there is none yet."""
        first = self._linked.setdefault((status.st_dev, status.st_ino), target)
        if first == target:
            return False
        with operation("link", target):
            try:
                self._put(target, partial(os.link, first))
            except OSError as exc:
                if exc.errno in _NO_LINK:
                    return False
                raise
        return True

    def _put(self, target: str, make: Callable[[str], None]) -> None:
        """Make something under a name, in the place of what has it now."""
        if self._exclusive:
            make(target)
        else:
            replace_entry(target, make)

    def _keep(self, source: str | int, target: str | int, status: os.stat_result) -> None:
        """Give the copy what the original has, as far as the system allows."""
        follow = isinstance(target, int)  # a descriptor, else the name of what may be a link
        if self._keep_owner:
            with suppress(OSError):
                os.chown(target, status.st_uid, status.st_gid, follow_symlinks=follow)
        self._keep_attributes(source, target)
        with suppress(OSError):
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(target, ns=times, follow_symlinks=follow)

    def _keep_attributes(self, source: str | int, target: str | int) -> None:
        follow = isinstance(target, int)
        with suppress(OSError):  # a file system without them
            for name in os.listxattr(source, follow_symlinks=follow):
                if self._keep_owner or name.startswith("user."):
                    with suppress(OSError):
                        value = os.getxattr(source, name, follow_symlinks=follow)
                        os.setxattr(target, name, value, follow_symlinks=follow)


class _File(AtomicFile):
    """A file whose content comes from the kernel."""

    def fill(self, fill: Callable[[int], None]) -> None:
        """Let a function write to the open file, which is empty.

        Raises:
            FailedError: `open A: …`, or `write A: …`.
        """
        with self._lock:
            output = self._output()
            with operation("write", self.path):
                fill(output)


class _NewFile(_File):
    """A file that must not exist: not when it is begun, and not when it gets its name."""

    def _open(self) -> int:
        if os.path.lexists(self.path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return self._open_new()

    def _rename(self) -> None:
        rename_new(self._temporary, self._target)
        self._temporary = ""
