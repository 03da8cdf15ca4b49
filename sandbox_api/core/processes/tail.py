"""The end of a run's output as text: what replies hold (spec/process.md 2.1)."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sandbox_api.core.processes.journal import Journal, Kind, Mark, Position
from sandbox_api.core.processes.output import STREAMS, Output

MARKER = b"[... truncated, see the process log file for the full output ...]\n"
INLINE_BYTES = 256 * 1024


class OutputText(NamedTuple):
    """Both streams, each alone and both in the order in which they came."""

    stdout: str = ""
    stderr: str = ""
    logs: str = ""


class _Tail(NamedTuple):
    begin: int
    data: bytes

    def between(self, begin: int, end: int) -> bytes:
        return self.data[max(begin - self.begin, 0) : max(end - self.begin, 0)]


async def read_tail(output: Output, max_bytes: int) -> OutputText:
    """The last bytes of each stream, with a marker line where something comes before them.

    `logs` holds the same bytes in the order of the journal. What is not UTF-8 becomes U+FFFD.

    Args:
        output: a run's output.
        max_bytes: of each stream; 0 is all of it.
    """
    end = output.position
    if not end.order:
        return OutputText()
    with output.reading():
        tails = [_read(output, kind, end[kind], max_bytes) for kind in STREAMS]
        marks = _marks(output.journal, tails) if all(tail.data for tail in tails) else ()
    if sum(len(tail.data) for tail in tails) <= INLINE_BYTES:
        return _text(tails, marks, end)
    return await asyncio.to_thread(_text, tails, marks, end)


def _read(output: Output, kind: Kind, end: int, max_bytes: int) -> _Tail:
    log = output.logs[kind]
    begin = max(log.start, end - max_bytes if max_bytes else 0)
    data = log.read(begin, end - begin)
    if len(data) < end - begin:  # somebody has removed the file
        return _Tail(end, b"")
    return _Tail(begin, data)


def _marks(journal: Journal, tails: Sequence[_Tail]) -> Sequence[Mark]:
    """The marks from the earlier begin of both tails on."""
    number = min(journal.find_stream(kind, tails[kind].begin) for kind in STREAMS)
    return journal.read(number, journal.count)


def _text(tails: Sequence[_Tail], marks: Sequence[Mark], end: Position) -> OutputText:
    cut = MARKER if any(tail.begin for tail in tails) else b""
    stdout, stderr = ((MARKER if tail.begin else b"") + tail.data for tail in tails)
    logs = cut + b"".join(_merge(tails, marks, end)) if marks else stdout + stderr
    return OutputText(*(data.decode("utf-8", "replace") for data in (stdout, stderr, logs)))


def _merge(tails: Sequence[_Tail], marks: Sequence[Mark], end: Position) -> Iterator[bytes]:
    """The tails' bytes, segment by segment; first those whose marks are forgotten."""
    for kind in STREAMS:
        yield tails[kind].between(tails[kind].begin, marks[0].position[kind])
    ends = [*(mark.position for mark in marks[1:]), end]
    for mark, until in zip(marks, ends, strict=True):
        if mark.kind is not Kind.END:
            yield tails[mark.kind].between(mark.position[mark.kind], until[mark.kind])
