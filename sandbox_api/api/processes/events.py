"""A run's output as NDJSON events (spec/process.md 7.3): bytes as they come, no lines awaited.

Prompts and progress bars have no newline, so an event holds whatever was there; only a UTF-8
character is never cut. Two forms: the one that every client knows, and one that says with each
event where to resume after it, and when it came (docs/logs.md).
"""

import codecs
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sandbox_api.core.processes.cursor import NOTHING, Piece
from sandbox_api.core.processes.framing import Unfinished, gap_text
from sandbox_api.core.processes.journal import Kind, Position
from sandbox_api.core.processes.output import STREAMS

KEEP_ALIVE_EVENT = b'{"type":"keepalive"}\n'
NS_PER_S = 1_000_000_000
_DECODER = codecs.getincrementaldecoder("utf-8")


class Told(NamedTuple):
    """What a reader of events was told so far.

    Attributes:
        unfinished: the begin of a character, of each stream; it was not told yet.
        position: bytes of each stream that were read, or seen before.
    """

    unfinished: Unfinished = Unfinished()
    position: Position = NOTHING


class _Part(NamedTuple):
    """Text of one stream, bytes that are gone after it, and where to resume then."""

    kind: Kind
    text: str
    lost: int
    offsets: Position
    time_ns: int

    @property
    def stream(self) -> str:
        return self.kind.name.lower()


def event(kind: str, fields: Mapping[str, object]) -> bytes:
    """One line of the stream."""
    value = {"type": kind, **fields}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def frame_events(pieces: Sequence[Piece], unfinished: Unfinished) -> tuple[bytes, Unfinished]:
    """Frame pieces as the events that every client knows; a gap is a text of ours in its stream.

    Args:
        pieces: what a cursor read.
        unfinished: the begin of a character that the last call left, per stream.

    Returns:
        Whole lines, and what is left for the next call.
    """
    framed, told = _frame(pieces, Told(unfinished), _plain)
    return framed, told.unfinished


def flush_events(unfinished: Unfinished) -> bytes:
    """What is left of broken characters at the end."""
    return b"".join(map(_plain, _flush(list(unfinished), NOTHING, 0)))


def frame_offset_events(pieces: Sequence[Piece], told: Told) -> tuple[bytes, Told]:
    """Frame pieces as events with offsets and times; a gap is an event of its own.

    Args:
        pieces: what a cursor read.
        told: what the last call left; at first, where the reader was before.

    Returns:
        Whole lines, and what is left for the next call.
    """
    return _frame(pieces, told, _with_offsets)


def flush_offset_events(told: Told) -> bytes:
    """What is left of broken characters at the end."""
    return b"".join(map(_with_offsets, _flush(list(told.unfinished), told.position, 0)))


def offset_fields(position: Position) -> dict[str, int]:
    """What a client sends to resume there."""
    return {"stdoutOffset": position.stdout, "stderrOffset": position.stderr}


def _frame(
    pieces: Sequence[Piece], told: Told, line: Callable[[_Part], bytes]
) -> tuple[bytes, Told]:
    left, position = list(told.unfinished), told.position
    lines: list[bytes] = []
    for piece in pieces:
        position = piece.position.advance(piece.kind, piece.lost or len(piece.data))
        lines += map(line, _parts(piece, left, position))
    return b"".join(lines), Told(Unfinished(*left), position)


def _parts(piece: Piece, left: list[bytes], position: Position) -> Iterator[_Part]:
    kind = piece.kind
    if kind is Kind.END:
        yield from _flush(left, position, piece.time_ns)
        return
    if piece.lost:
        text, left[kind] = left[kind].decode("utf-8", "replace"), b""
    else:
        text, left[kind] = _whole_characters(left[kind] + piece.data)
    if text or piece.lost:
        yield _Part(kind, text, piece.lost, _offsets(position, left), piece.time_ns)


def _flush(left: list[bytes], position: Position, time_ns: int) -> Iterator[_Part]:
    """What is left of broken characters; then nothing is."""
    for kind in STREAMS:
        text, left[kind] = left[kind].decode("utf-8", "replace"), b""
        if text:
            yield _Part(kind, text, 0, _offsets(position, left), time_ns)


def _offsets(position: Position, left: list[bytes]) -> Position:
    """Where to resume: what was read and not told is read again."""
    return Position(position.stdout - len(left[0]), position.stderr - len(left[1]))


def _plain(part: _Part) -> bytes:
    gap = gap_text(part.lost).decode() if part.lost else ""
    return event(part.stream, {"data": part.text + gap})


def _with_offsets(part: _Part) -> bytes:
    lines = b""
    if part.text:
        offsets = offset_fields(part.offsets.advance(part.kind, -part.lost))
        came = {"time": rfc3339(part.time_ns)} if part.time_ns else {}
        lines = event(part.stream, {"data": part.text, **offsets, **came})
    if part.lost:
        gap = {"stream": part.stream, "bytes": part.lost, **offset_fields(part.offsets)}
        lines += event("gap", gap)
    return lines


def rfc3339(time_ns: int) -> str:
    """`2026-11-21T01:01:39.123Z`."""
    moment = datetime.fromtimestamp(time_ns // NS_PER_S, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 1_000_000 % 1000:03}Z"


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    """Text up to the last whole character, and the begin of the next one."""
    decoder = _DECODER("replace")
    return decoder.decode(data), decoder.getstate()[0]
