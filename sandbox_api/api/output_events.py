"""A run's output as NDJSON events (spec/process.md 7.3): bytes as they come, no lines awaited.

Prompts and progress bars have no newline, so an event holds whatever was there; only a UTF-8
character is never cut.
"""

import codecs
import json
from collections.abc import Sequence

from sandbox_api.core.processes.cursor import Piece
from sandbox_api.core.processes.framing import Unfinished, gap_text
from sandbox_api.core.processes.journal import Kind

KEEP_ALIVE_EVENT = b'{"type":"keepalive"}\n'
_DECODER = codecs.getincrementaldecoder("utf-8")


def event(kind: str, data: str) -> bytes:
    """One line of the stream."""
    text = json.dumps({"type": kind, "data": data}, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def frame_events(pieces: Sequence[Piece], unfinished: Unfinished) -> tuple[bytes, Unfinished]:
    """Frame pieces as events.

    Args:
        pieces: what a cursor read.
        unfinished: the begin of a character that the last call left, per stream.

    Returns:
        Whole lines, and what is left for the next call.
    """
    events: list[bytes] = []
    left = [unfinished.stdout, unfinished.stderr]
    for piece in pieces:
        if piece.kind is Kind.END:
            events.append(flush_events(Unfinished(*left)))
            left = [b"", b""]
        elif piece.lost:
            begun = left[piece.kind].decode("utf-8", "replace")
            events.append(event(piece.kind.name.lower(), begun + gap_text(piece.lost).decode()))
            left[piece.kind] = b""
        else:
            text, left[piece.kind] = _whole_characters(left[piece.kind] + piece.data)
            if text:
                events.append(event(piece.kind.name.lower(), text))
    return b"".join(events), Unfinished(*left)


def flush_events(unfinished: Unfinished) -> bytes:
    """What is left of broken characters at the end."""
    names = ("stdout", "stderr")
    return b"".join(
        event(name, data.decode("utf-8", "replace"))
        for name, data in zip(names, unfinished, strict=True)
        if data
    )


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    """Text up to the last whole character, and the begin of the next one."""
    decoder = _DECODER("replace")
    return decoder.decode(data), decoder.getstate()[0]
