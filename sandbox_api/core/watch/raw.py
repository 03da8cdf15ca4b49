"""What the kernel says, as it says it (inotify(7))."""

import os
import struct
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

EVENT_BYTES: Final = 16 + 256  # the largest: its head and a name of 255 bytes

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


def parse(data: bytes) -> Iterator[tuple[int, int, int, str]]:
    """Watch descriptor, mask, cookie and name of each event that was read."""
    offset = 0
    while offset < len(data):
        wd, mask, cookie, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        name = data[offset : offset + length].rstrip(b"\0")
        offset += length
        yield wd, mask, cookie, os.fsdecode(name)
