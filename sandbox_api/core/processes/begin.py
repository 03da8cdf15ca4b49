"""Where a reader begins: after what it has already, at a time, or some lines before the end.

A line belongs where its newline came, as in a log stream. What a run left without a newline is a
line too. Logs are searched backward, a block at a time: never is a whole log in memory, and the
event loop gets its turn.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sandbox_api.core.processes.cursor import NOTHING
from sandbox_api.core.processes.framing import MAX_LINE_BYTES
from sandbox_api.core.processes.journal import BLOCK_MARKS, RENEW_NS, Journal, Kind, Mark, Position
from sandbox_api.core.processes.logfile import LogFile
from sandbox_api.core.processes.output import STREAMS, Output
from sandbox_api.errors import InvalidError

BLOCK_BYTES = 256 * 1024
TURN_BLOCKS = 16
ALIGN_BYTES = 64 * 1024
"""How far a reader that asks for a time goes back for the begin of the line that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Where a reader wants to begin; of several wishes, the one that gives least counts.

    Attributes:
        seen: bytes of each stream that it has already.
        since_ns: only what came after this time, ns since the epoch; a line that was begun before
            is whole, and up to 0.1 s before may be there too.
        last_lines: only so many lines before the end, of both streams together.
    """

    seen: Position = NOTHING
    since_ns: int | None = None
    last_lines: int | None = None


async def find_begin(output: Output, wanted: Begin) -> Position:
    """The bytes of each stream that come before what a reader wants.

    Raises:
        InvalidError: the reader claims to have more than there is: its offsets are of another run.
    """
    end = output.position
    for kind in STREAMS:
        if wanted.seen[kind] > end[kind]:
            name = kind.name.lower()
            raise InvalidError(
                f"invalid {name}Offset: {wanted.seen[kind]} is past the end of {name}, which has "
                f"{end[kind]} bytes so far; offsets hold for the one process that gave them"
            )
    begin = wanted.seen
    if not end.order:
        return begin
    with output.reading():
        if wanted.since_ns is not None:
            begin = _later(begin, await _find_time(output, wanted.since_ns))
        if wanted.last_lines is not None:
            begin = _later(begin, await _find_last_lines(output, wanted.last_lines))
    return begin


def _later(first: Position, second: Position) -> Position:
    return Position(*map(max, first, second))


async def _find_time(output: Output, since_ns: int) -> Position:
    """The begin of the first segment that has bytes from after a time: one that begins a moment
    before it has, for a segment takes what comes within `RENEW_NS`."""
    journal = output.journal
    number = journal.find_time(since_ns - RENEW_NS)
    marks = journal.read(number, 2)
    if not marks or marks[0].time_ns > since_ns - RENEW_NS:
        return NOTHING  # all of it; and what was cut may have come after that time as well
    at = marks[1].position if len(marks) > 1 else output.position
    begins = [
        await _line_begin(output, kind, at[kind], ALIGN_BYTES, otherwise=at[kind])
        for kind in STREAMS
    ]
    return Position(*begins)


async def _find_last_lines(output: Output, count: int) -> Position:
    """The begin of the last lines; everything when there are not so many."""
    begin = list(output.position)
    found: set[Kind] = set()
    for number, (kind, first, data) in enumerate(_backward(output)):
        if count <= 0:
            break
        if newlines := data.count(b"\n"):
            found.add(kind)
            begin[kind] = first + _last_newline(data, count, newlines) + 1
            count -= newlines
        if number % TURN_BLOCKS == 0:
            await asyncio.sleep(0)
    if count > 0:
        return NOTHING
    for kind in found:
        last_byte = begin[kind] - 1
        floor = max(last_byte - MAX_LINE_BYTES, 0)
        begin[kind] = await _line_begin(output, kind, last_byte, MAX_LINE_BYTES, otherwise=floor)
    return Position(*begin)


def _last_newline(data: bytes, count: int, newlines: int) -> int:
    """Where the last newline but `count - 1` is, of so many; the first where there are less."""
    if count >= newlines:
        return data.index(b"\n")
    place = len(data)
    for _ in range(count):
        place = data.rindex(b"\n", 0, place)
    return place


def _backward(output: Output) -> Iterator[tuple[Kind, int, bytes]]:
    """The output from its end, in the order of the journal: stream, offset, bytes.

    Where a line has no newline since the run ended there, or since it is the last one, a newline
    stands in for its last byte.
    """
    streams = [_Backward(log) for log in output.logs]
    until = end = output.position
    ended = output.end or NOTHING
    marks = _marks_backward(output.journal, output.journal.count)
    open_ended = [kind for kind in reversed(STREAMS) if ended[kind] != end[kind]]
    yield from _line_ends(streams, end, open_ended)
    for mark in marks:
        if mark.kind is Kind.END:
            yield from _line_ends(streams, mark.position, reversed(STREAMS))
        else:
            kind = mark.kind
            for first, data in streams[kind].blocks(mark.position[kind], until[kind]):
                yield kind, first, data
        until = mark.position


def _line_ends(
    streams: list["_Backward"], place: Position, kinds: Iterable[Kind]
) -> Iterator[tuple[Kind, int, bytes]]:
    """A newline for the last byte of each stream before a place, if that is none."""
    for kind in kinds:
        for first, data in streams[kind].blocks(place[kind] - 1, place[kind]):
            if data != b"\n":
                yield kind, first, b"\n"


def _marks_backward(journal: Journal, last: int) -> Iterator[Mark]:
    while last > journal.first:
        first = max(last - BLOCK_MARKS, journal.first)
        yield from reversed(journal.read(first, last - first))
        last = first


class _Backward:
    """One stream, read from its end in blocks; segments may be as short as a line."""

    def __init__(self, log: LogFile) -> None:
        self._log = log
        self._first, self._data = 0, b""

    def blocks(self, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes, last block first, of what is still there."""
        first = max(first, self._log.start)
        while end > first:
            if not self._first < end <= self._first + len(self._data):
                self._first = max(end - BLOCK_BYTES, self._log.start)
                self._data = self._log.read(self._first, end - self._first)
                if not self._data:  # somebody has removed the file
                    return
            begin = max(first, self._first)
            yield begin, self._data[begin - self._first : end - self._first]
            end = begin


async def _line_begin(output: Output, kind: Kind, offset: int, most: int, *, otherwise: int) -> int:
    """Where the line begins that has the byte at `offset`.

    Args:
        output: of which run.
        kind: of which stream.
        offset: a place in it.
        most: how far to go back, in bytes.
        otherwise: the answer when it begins further away.
    """
    ended = output.end[kind] if output.end is not None and output.end[kind] <= offset else 0
    log = output.logs[kind]
    floor = max(offset - most, log.start, ended)
    for first, data in _Backward(log).blocks(floor, offset):
        newline = data.rfind(b"\n")
        if newline >= 0:
            return first + newline + 1
        await asyncio.sleep(0)
    return floor if floor == ended else otherwise
