"""A part of a run's output as text, from where a reader was: page by page, all of it."""

import asyncio
import codecs
from collections.abc import Iterable

from sandbox_api.core.processes.cursor import READ_BYTES, Cursor, Piece
from sandbox_api.core.processes.journal import Kind, Position
from sandbox_api.core.processes.output import STREAMS, Output
from sandbox_api.core.processes.tail import OutputText

LEAST_BYTES = 8
"""The smallest page: room for what has only begun of a character in each stream, and more."""

_DECODER = codecs.getincrementaldecoder("utf-8")


async def read_page(output: Output, begin: Position, max_bytes: int) -> OutputText:
    """What follows a place, in the order of the journal.

    A page ends between characters, but where the run has ended inside of one. What was cut for
    space is only counted.

    Args:
        output: a run's output.
        begin: bytes of each stream that come before.
        max_bytes: of both streams together, at least `LEAST_BYTES`; 0 is all there is now.
    """
    page = _Page()
    with output.reading():
        cursor, stop = Cursor(output, begin), output.position
        left = max_bytes or stop.order
        while left > 0 and cursor.place.position.order < stop.order:
            before = cursor.place
            pieces = cursor.read(min(left, READ_BYTES), stop)
            if cursor.place == before:
                break
            page.add(pieces)
            left -= sum(len(piece.data) for piece in pieces)
            await asyncio.sleep(0)
    if output.end is not None and cursor.place.position == output.position:
        page.flush()
    return page.text(cursor.place.reached)


class _Page:
    """Text of both streams, each decoded alone: what one writes never breaks a character of the
    other."""

    def __init__(self) -> None:
        self._decoders = [_DECODER("replace") for _ in STREAMS]
        self._streams: list[list[str]] = [[] for _ in STREAMS]
        self._logs: list[str] = []
        self._missing = Position()

    def add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if piece.kind is Kind.END:
                continue
            if piece.lost:
                self._missing = self._missing.advance(piece.kind, piece.lost)
            self._decode(piece.kind, piece.data, final=bool(piece.lost))

    def flush(self) -> None:
        """What has begun of a character does not go on."""
        for kind in STREAMS:
            self._decode(kind, b"", final=True)

    def _decode(self, kind: Kind, data: bytes, *, final: bool) -> None:
        text = self._decoders[kind].decode(data, final)
        self._streams[kind].append(text)
        self._logs.append(text)

    def text(self, end: Position) -> OutputText:
        begun = (len(decoder.getstate()[0]) for decoder in self._decoders)
        stdout, stderr, logs = map("".join, (*self._streams, self._logs))
        return OutputText(
            stdout,
            stderr,
            logs,
            Position(*(at - count for at, count in zip(end, begun, strict=True))),
            self._missing,
        )
