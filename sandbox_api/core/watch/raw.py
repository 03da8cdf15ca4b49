"""What the kernel says, as it says it (inotify(7))."""

import os
import struct
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from sandbox_api.core import linux

MASK: Final = (
    linux.IN_CREATE
    | linux.IN_DELETE
    | linux.IN_MODIFY
    | linux.IN_ATTRIB
    | linux.IN_MOVED_FROM
    | linux.IN_MOVED_TO
    | linux.IN_DELETE_SELF
    | linux.IN_MOVE_SELF
    | linux.IN_ONLYDIR
)

# Two marks of our own among the kernel's, beyond its 32 bits.
CAUGHT_UP: Final = 1 << 32
MOVE_EXPIRED: Final = 1 << 33

READ_BYTES: Final = 64 << 10
EVENT_BYTES: Final = 16 + 256  # the largest: its head and a name of 255 bytes
MAX_UNHANDLED_BYTES: Final = 8 << 20

_HEAD = struct.Struct("iIII")


class Raw(NamedTuple):
    """One event.

    Attributes:
        sequence: its place among all events that were read.
        mask: what happened, bits of `linux.IN_…`.
        cookie: the same for both halves of a rename.
        name: base name of the entry; empty where it is about the directory itself.
        replaces: of a rename by which a write of ours takes its place: whether a file was there
            before. None for everybody else's.
    """

    sequence: int
    mask: int
    cookie: int = 0
    name: str = ""
    replaces: bool | None = None


class Unhandled:
    """What the kernel has told and nobody has handled yet.

    The kernel's own queue is short (fs.inotify.max_queued_events), and what does not fit is lost:
    so it is emptied at once, while events are handled at the pace of the event loop.

    Args:
        fd: an inotify instance that never waits.

    Attributes:
        read_bytes: how much was read from the kernel.
        handled_bytes: how much of it was handed out.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pieces: deque[bytes] = deque()
        self._offset = 0
        self.read_bytes = 0
        self.handled_bytes = 0

    @property
    def empty(self) -> bool:
        """Whether all that was read was handed out."""
        return not self._pieces

    def fill(self) -> bool:
        """Read what there is; False where more may be left with the kernel."""
        while self.read_bytes - self.handled_bytes < MAX_UNHANDLED_BYTES:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return True
            self._pieces.append(data)
            self.read_bytes += len(data)
            if len(data) <= READ_BYTES - EVENT_BYTES:
                return True  # the next event would have fitted
        return False

    def take(self, limit: int) -> Iterator[tuple[int, int, int, str]]:
        """Watch descriptor, mask, cookie and name of the next events, so many at most."""
        while limit and self._pieces:
            data, offset = self._pieces[0], self._offset
            wd, mask, cookie, length = _HEAD.unpack_from(data, offset)
            end = offset + _HEAD.size + length
            name = data[offset + _HEAD.size : end].rstrip(b"\0")
            self.handled_bytes += end - offset
            if end < len(data):
                self._offset = end
            else:
                self._pieces.popleft()
                self._offset = 0
            limit -= 1
            yield wd, mask, cookie, os.fsdecode(name)
