"""Bytes from one open file to another, within the kernel."""

import errno
import os

_COPY_BYTES = 1 << 30
_NO_COPY_FILE_RANGE = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
)


def copy_range(source: int, target: int, offset: int, count: int) -> None:
    """Write a range of one file at the position of another.

    copy_file_range(2) shares the blocks where the file system can (XFS, Btrfs); elsewhere, and
    between file systems, it or sendfile(2) copies.

    Args:
        source: a file that is open for reading; its position stays.
        target: a file that is open for writing; its position moves on.
        offset: of the first byte.
        count: bytes; the source must have them.

    Raises:
        OSError: EIO when the source ends early; whatever the system refuses.
    """
    end = offset + count
    while offset < end:
        copied = _copy_some(source, target, offset, min(end - offset, _COPY_BYTES))
        if not copied:
            raise OSError(errno.EIO, "the source became shorter while it was copied")
        offset += copied


def _copy_some(source: int, target: int, offset: int, count: int) -> int:
    try:
        if copied := os.copy_file_range(source, target, count, offset):
            return copied
    except OSError as exc:
        if exc.errno not in _NO_COPY_FILE_RANGE:
            raise
    return os.sendfile(target, source, offset, count)
