"""One stream's bytes: appended straight from a pipe, read by offset, cut at the head for space."""

import errno
import fcntl
import os
import select
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from sandbox_api.core import linux

PAGE_BYTES = 4096
COPY_BYTES = 1 << 16
# What file systems without splice_write answer; the bytes then go through Python.
_NO_SPLICE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class LogFile:
    """Bytes `start` to `size` of one stream of a run.

    Offsets count from the first byte ever written; what lies before `start` is gone.

    Args:
        open_file: opens the file when the first byte comes; this object owns the descriptor.
        max_bytes: how much may be kept, or None.
    """

    __slots__ = ("_fd", "_held", "_max_bytes", "_open_file", "_splices", "_stored", "start")

    def __init__(self, open_file: Callable[[], int], max_bytes: int | None) -> None:
        self._open_file = open_file
        self._fd = -1
        self._max_bytes = max_bytes
        self._splices = True
        self._stored = 0
        self._held = b""  # read from the pipe, and the full disk did not take it yet
        self.start = 0

    def resume(self, start: int, size: int) -> None:
        """Go on with a file that holds bytes already."""
        self.start, self._stored = start, size

    @property
    def size(self) -> int:
        """Bytes ever appended."""
        return self._stored + len(self._held)

    def take(self, pipe_fd: int, most: int) -> int:
        """Move up to `most` bytes from a non-blocking pipe to the end of the file.

        Returns:
            How many; 0 when the last writer has closed the pipe.

        Raises:
            BlockingIOError: the pipe is empty.
            OSError: the file took nothing (disk full); the bytes are still in the pipe.
        """
        self.flush()
        before = self.size
        if self._splices:
            self._splice(pipe_fd, most)
        else:
            self._copy(pipe_fd, most)
        self._cut_to_bound()
        return self.size - before

    def append(self, data: bytes) -> None:
        """Add bytes of our own; a full disk keeps them in memory until it has room."""
        self._held += data
        with suppress(OSError):
            self.flush()

    def flush(self) -> None:
        """Write what is held in memory.

        Raises:
            OSError: the disk is still full.
        """
        while self._held:
            written = os.pwrite(self._descriptor(), self._held, self._stored)
            self._stored += written
            self._held = self._held[written:]

    def hold(self, pipe_fd: int, most: int) -> int:
        """Keep in memory what a pipe holds, at the end of a run whose disk is full.

        Returns:
            How many bytes: at most the pipe's size, or `most`.
        """
        before = self.size
        with suppress(BlockingIOError):
            while self.size - before < most:
                chunk = os.read(pipe_fd, most - (self.size - before))
                if not chunk:
                    break
                self._held += chunk
        return self.size - before

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on; short only at the end."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        if offset >= self._stored:
            return self._held[offset - self._stored : offset - self._stored + count]
        data = os.pread(self._descriptor(), min(count, self._stored - offset), offset)
        if len(data) < count and self._held:
            data += self._held[: count - len(data)]
        return data

    def cut(self, start: int) -> None:
        """Give back the space of what lies before `start`, in whole pages."""
        start = start // PAGE_BYTES * PAGE_BYTES
        if start > self.start:
            linux.punch_hole(self._descriptor(), self.start, start - self.start)
            self.start = start

    def release(self) -> None:
        """Close the descriptor; the next read opens the file again."""
        if self._fd >= 0 and self._max_bytes is None:
            self.close()

    def close(self) -> None:
        """Close the descriptor for good."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _descriptor(self) -> int:
        if self._fd < 0:
            self._fd = self._open_file()
        return self._fd

    def _splice(self, pipe_fd: int, most: int) -> None:
        fd, flags = self._descriptor(), os.SPLICE_F_NONBLOCK
        try:
            self._stored += os.splice(pipe_fd, fd, most, offset_dst=self._stored, flags=flags)
        except OSError as exc:
            if exc.errno not in _NO_SPLICE:
                raise
            self._splices = False
            self._copy(pipe_fd, most)

    def _copy(self, pipe_fd: int, most: int) -> None:
        self._held = os.read(pipe_fd, min(most, COPY_BYTES))
        with suppress(OSError):
            self.flush()

    def _cut_to_bound(self) -> None:
        if self._max_bytes is not None and self.size - self.start > 2 * self._max_bytes:
            self.cut(self.size - self._max_bytes)


def pending_bytes(pipe_fd: int) -> int:
    """How much a pipe holds now (FIONREAD, ioctl_tty(2))."""
    answer = fcntl.ioctl(pipe_fd, termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(answer, sys.byteorder)


def has_ended(pipe_fd: int) -> bool:
    """Whether a pipe is empty and nobody can write to it any more (poll(2))."""
    poll = select.poll()
    poll.register(pipe_fd, select.POLLIN)
    return any(events == select.POLLHUP for _, events in poll.poll(0))
