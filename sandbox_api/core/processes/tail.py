"""The end of a run's output as text: what replies hold (spec/process.md 2.1)."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from sandbox_api.core.processes.framing import whole_characters
from sandbox_api.core.processes.journal import Journal, Kind, Mark, Position, unpack_marks
from sandbox_api.core.processes.output import STREAMS, Output

MARKER = b"[... truncated, see the process log file for the full output ...]\n"
INLINE_BYTES = 256 * 1024


class OutputText(NamedTuple):
    """Both streams, each alone and both in the order in which they came.

    Attributes:
        stdout: of one stream.
        stderr: of the other one.
        logs: both, in the order of the journal.
        end: bytes of each stream up to where this ends; where to read on.
        missing: bytes of each stream that were asked for and are not here.
    """

    stdout: str = ""
    stderr: str = ""
    logs: str = ""
    end: Position = Position()
    missing: Position = Position()


class _Tail(NamedTuple):
    begin: int
    data: bytes

    def between(self, begin: int, end: int) -> bytes:
        return self.data[max(begin - self.begin, 0) : max(end - self.begin, 0)]


async def read_tail(output: Output, max_bytes: int) -> OutputText:
    """The last bytes of each stream, with a marker line where something comes before them.

    `logs` holds the same bytes in the order of the journal. What is not UTF-8 becomes U+FFFD; a
    character that has only begun is left for the next time while the run lives.

    Args:
        output: a run's output.
        max_bytes: of each stream; 0 is all of it.
    """
    end = output.position
    if not end.order:
        return OutputText()
    with output.reading():
        tails = [_read(output, kind, end[kind], max_bytes) for kind in STREAMS]
        marks = _marks(output.journal, tails, end) if all(tail.data for tail in tails) else b""
    end = Position(*(tail.begin + len(tail.data) for tail in tails))
    if sum(len(tail.data) for tail in tails) + len(marks) <= INLINE_BYTES:
        return _text(tails, marks, end)
    return await asyncio.to_thread(_text, tails, marks, end)


def _read(output: Output, kind: Kind, end: int, max_bytes: int) -> _Tail:
    log = output.logs[kind]
    begin = max(log.start, end - max_bytes if max_bytes else 0)
    data = log.read(begin, end - begin)
    if len(data) < end - begin:  # somebody has removed the file
        return _Tail(end, b"")
    return _Tail(begin, data if output.end is not None else data[: whole_characters(data)])


def _marks(journal: Journal, tails: Sequence[_Tail], end: Position) -> bytes:
    """The marks between which both tails have bytes, packed; around them only one has any."""
    first = max(journal.find_stream(kind, tails[kind].begin) for kind in STREAMS)
    last = min(journal.find_stream(kind, end[kind] - 1) for kind in STREAMS) + 1
    return journal.read_packed(first, max(last - first, 0) + 1)


def _text(tails: Sequence[_Tail], packed: bytes, end: Position) -> OutputText:
    cut = MARKER if any(tail.begin for tail in tails) else b""
    stdout, stderr = ((MARKER if tail.begin else b"") + tail.data for tail in tails)
    marks = unpack_marks(packed)
    logs = cut + b"".join(_merge(tails, marks, end)) if marks else stdout + stderr
    missing = Position(*(tail.begin for tail in tails))
    texts = [data.decode("utf-8", "replace") for data in (stdout, stderr, logs)]
    return OutputText(texts[0], texts[1], texts[2], end, missing)


def _merge(tails: Sequence[_Tail], marks: Sequence[Mark], end: Position) -> Iterator[bytes]:
    """The tails' bytes in their order: before the marks, segment by segment, and after them."""
    begin = Position(*(tail.begin for tail in tails))
    yield from _between(tails, begin, marks[0].position)
    for mark, following in pairwise(marks):
        yield from _between(tails, mark.position, following.position)
    yield from _between(tails, marks[-1].position, end)


def _between(tails: Sequence[_Tail], begin: Position, end: Position) -> Iterator[bytes]:
    for kind in STREAMS:
        yield tails[kind].between(begin[kind], end[kind])
