"""The order journal of a run: which stream wrote when, so that the order is fixed once.

stdout and stderr arrive through two pipes. Each time the reader moves bytes it appends a mark
where the stream changes, and from then on every reader (live, replay, after a restart of the
daemon) sees the same order. A mark says how many bytes of each stream came before it; the segment
it begins ends at the next mark. A position in the output is those two numbers; their sum alone
orders them.
"""

import errno
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

from sandbox_api.core import linux

PAGE_BYTES = 4096
MARK = struct.Struct("<QQQ")
BLOCK_MARKS = 512
# A long segment of one stream gets a new mark now and then, so that `since` has times to go by.
RENEW_NS = 100_000_000


class Kind(IntEnum):
    """What begins at a mark."""

    STDOUT = 0
    STDERR = 1
    END = 2


class Position(NamedTuple):
    """A place in the output: bytes of each stream that come before it."""

    stdout: int = 0
    stderr: int = 0

    @property
    def order(self) -> int:
        """Bytes of both streams before this place."""
        return self.stdout + self.stderr

    def advance(self, kind: Kind, count: int) -> "Position":
        """The place `count` bytes of one stream later."""
        if kind is Kind.STDERR:
            return Position(self.stdout, self.stderr + count)
        return Position(self.stdout + count, self.stderr)


class Mark(NamedTuple):
    """The begin of a segment: where, of what, and when (ns since the epoch)."""

    position: Position
    kind: Kind
    time_ns: int


class Journal:
    """Marks of one run in a file; only the newest is in memory.

    Args:
        fd: the journal's file, read and written by offset; this object owns it.
        count: marks that the file holds already.
    """

    def __init__(self, fd: int, count: int = 0) -> None:
        self._fd = fd
        self._stored = count
        self._held: list[Mark] = []  # the full disk did not take them yet
        self.first = 0
        self._last = self.read(count - 1, 1)[0] if count else None

    @classmethod
    def open(cls, fd: int) -> "Journal":
        """Go on with a file that may hold marks already; its head may have been cut."""
        journal = cls(fd, os.fstat(fd).st_size // MARK.size)
        if journal.count:
            journal.first = -(-linux.first_data(fd) // MARK.size)
        return journal

    @property
    def count(self) -> int:
        """Marks ever appended."""
        return self._stored + len(self._held)

    @property
    def held(self) -> bool:
        """Whether marks are in memory that the disk did not take."""
        return bool(self._held)

    def append(self, position: Position, kind: Kind, time_ns: int) -> None:
        """Say that bytes of `kind` follow at `position`; a mark that says nothing new is left out.

        Raises:
            OSError: the disk is full; the mark is not there, so no bytes may follow.
        """
        self.flush()
        last = self._last
        time_ns = self._later(time_ns)
        if last and last.kind is kind is not Kind.END and time_ns - last.time_ns < RENEW_NS:
            return
        self._last = self._store(Mark(position, kind, time_ns))

    def hold(self, position: Position, kind: Kind, time_ns: int) -> None:
        """As `append`, but a mark that the disk does not take is kept in memory."""
        self._last = Mark(position, kind, self._later(time_ns))
        self._held.append(self._last)
        with suppress(OSError):
            self.flush()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            OSError: the disk is still full.
        """
        while self._held:
            self._store(self._held[0])
            del self._held[0]

    def _later(self, time_ns: int) -> int:
        """Times never go back, whatever is done to the clock: marks are found by them."""
        return max(time_ns, self._last.time_ns) if self._last else time_ns

    def _store(self, mark: Mark) -> Mark:
        if os.pwrite(self._fd, _pack(mark), self._stored * MARK.size) < MARK.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._stored += 1
        return mark

    def read(self, index: int, most: int = BLOCK_MARKS) -> Sequence[Mark]:
        """Up to `most` marks from number `index` on."""
        return unpack_marks(self.read_packed(index, most))

    def read_packed(self, index: int, most: int) -> bytes:
        """As `read`, for `unpack_marks` to do the work elsewhere."""
        stored = max(min(most, self._stored - index), 0)
        data = os.pread(self._fd, stored * MARK.size, index * MARK.size)
        if stored == most or not self._held:
            return data
        begin = index + stored - self._stored
        return data + b"".join(map(_pack, self._held[begin : begin + most - stored]))

    def find(self, order: int) -> int:
        """The number of the last mark at or before a place in the order; the first if none is."""
        return self._last_mark(order, lambda mark: mark.position.order)

    def find_stream(self, kind: Kind, offset: int) -> int:
        """The number of the last mark at or before an offset of one stream."""
        return self._last_mark(offset, lambda mark: mark.position[kind])

    def find_time(self, time_ns: int) -> int:
        """The number of the last mark at or before a time; the first if none is."""
        return self._last_mark(time_ns, lambda mark: mark.time_ns)

    def _last_mark(self, at: int, key: Callable[[Mark], int]) -> int:
        numbers = range(self.first, self.count)
        after = bisect_right(numbers, at, key=lambda number: key(self.read(number, 1)[0]))
        return numbers[max(after - 1, 0)] if numbers else self.first

    def forget(self, order: int) -> None:
        """Give back the space of marks whose segments end before a place in the order."""
        first = self.find(order)
        released = first * MARK.size // PAGE_BYTES * PAGE_BYTES
        if released > self.first * MARK.size:
            linux.punch_hole(self._fd, 0, released)
        self.first = first

    def keep(self, most: int) -> None:
        """Forget the older half of the marks when there are more than `most`."""
        if self.count - self.first > most:
            (mark,) = self.read(self.count - most // 2, 1)
            self.forget(mark.position.order)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)


def unpack_marks(packed: bytes) -> list[Mark]:
    """What `Journal.read_packed` returns, as marks."""
    whole = len(packed) - len(packed) % MARK.size
    return [_unpack(*fields) for fields in MARK.iter_unpack(packed[:whole])]


def _pack(mark: Mark) -> bytes:
    return MARK.pack(*mark.position, mark.time_ns << 2 | mark.kind)


def _unpack(stdout: int, stderr: int, packed: int) -> Mark:
    return Mark(Position(stdout, stderr), Kind(packed & 3), packed >> 2)
