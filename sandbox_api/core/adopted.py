"""A file that has been put together elsewhere takes the place of its target.

Everything here blocks: run it on file threads.
"""

import errno
import os

from sandbox_api.core.atomic import AtomicFile, inherit, make_directories
from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.paths import DEFAULT_DIRECTORY_MODE
from sandbox_api.core.ranges import copy_range

# Another file system, or a directory from which or into which nothing can be moved.
_NO_MOVE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM})


class AdoptedFile(AtomicFile):
    """A write whose bytes lie in a file already; that file is moved, or stays if the write fails.

    Args:
        path: as in `AtomicFile`.
        source: path of the file that holds the bytes.
        fd: the same file, open for reading and writing; it is closed in any case.
        sync: as in `AtomicFile`.
        condition: as in `AtomicFile`.
    """

    def __init__(
        self,
        path: str,
        source: str,
        fd: int,
        *,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> None:
        super().__init__(path, sync=sync, condition=condition)
        self._source = source
        self._source_fd = fd

    def _open_new(self) -> int:
        make_directories(os.path.dirname(self._target), DEFAULT_DIRECTORY_MODE)
        return self._open_temporary()

    def _open_temporary(self) -> int:
        self._temporary = self._source
        fd, self._source_fd = self._source_fd, -1
        return fd

    def _finish_in_place(self, change_mode: int | None) -> os.stat_result:
        copy_range(self._source_fd, self._fd, 0, os.fstat(self._source_fd).st_size)
        return super()._finish_in_place(change_mode)

    def _rename(self, *, replaces: bool) -> None:
        if self._temporary == self._source and not self._is_still_there():
            raise OSError(errno.ESTALE, "its bytes were deleted or replaced; send them again")
        try:
            super()._rename(replaces=replaces)
        except OSError as exc:
            if exc.errno not in _NO_MOVE or self._temporary != self._source:
                raise
            self._copy_beside()
            super()._rename(replaces=replaces)

    def _is_still_there(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self._source), os.fstat(self._fd))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a directory that this user cannot look into: it is copied

    def _copy_beside(self) -> None:
        """Go on with a copy beside the target, of the same owner and mode."""
        source = self._fd
        try:
            self._fd = super()._open_temporary()
            status = os.fstat(source)
            copy_range(source, self._fd, 0, status.st_size)
            inherit(source, self._fd, status, None)
        finally:
            if self._fd != source:
                os.close(source)

    def _drop_temporary(self) -> None:
        if self._temporary != self._source:
            super()._drop_temporary()

    def discard(self) -> None:
        """Give up what is not committed: the target and the source stay as they were."""
        super().discard()
        with self._lock:
            if self._source_fd >= 0:
                os.close(self._source_fd)
                self._source_fd = -1
