"""Pieces of output as the lines of a log stream (spec/process.md 7.2).

Each line has the prefix of its stream and ends with a newline. A line stands where its newline
came, so what a live reader saw is, byte for byte, the begin of any later replay. What a run leaves
without a newline becomes a line at its end. Bytes are never decoded here: only a line over 8 MiB is
cut, between characters, with a mark.
"""

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from sandbox_api.core.processes.cursor import Piece
from sandbox_api.core.processes.journal import Kind

MAX_LINE_BYTES = 8 << 20
PREFIXES = {Kind.STDOUT: b"stdout:", Kind.STDERR: b"stderr:"}
CONTINUED = b" [... line over 8 MiB, continued on the next line ...]"
_UTF8_MAX_BYTES = 4
_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80
_DECODER = codecs.getincrementaldecoder("utf-8")


class Unfinished(NamedTuple):
    """What came of each stream since its last newline."""

    stdout: bytes = b""
    stderr: bytes = b""


def frame_lines(pieces: Sequence[Piece], unfinished: Unfinished) -> tuple[bytes, Unfinished]:
    """Frame pieces as prefixed lines.

    Args:
        pieces: what a cursor read.
        unfinished: what the last call left.

    Returns:
        Whole framed lines, and what is left for the next call.
    """
    lines: list[bytes] = []
    left = [unfinished.stdout, unfinished.stderr]
    for piece in pieces:
        if piece.kind is Kind.END:
            lines.append(flush_lines(Unfinished(*left)))
            left = [b"", b""]
        elif piece.lost:
            prefix = PREFIXES[piece.kind]
            begun = left[piece.kind] and prefix + left[piece.kind] + b"\n"
            lines.append(begun + prefix + gap_text(piece.lost))
            left[piece.kind] = b""
        else:
            text = left[piece.kind] + piece.data if left[piece.kind] else piece.data
            left[piece.kind] = _frame_one(PREFIXES[piece.kind], text, lines)
    return b"".join(lines), Unfinished(*left)


def flush_lines(unfinished: Unfinished) -> bytes:
    """Lines without a newline, as they stand at the end."""
    texts = zip(PREFIXES.values(), unfinished, strict=True)
    return b"".join(prefix + text + b"\n" for prefix, text in texts if text)


def gap_text(lost: int) -> bytes:
    """The line that says how much was cut for space."""
    return b"[... truncated, %d bytes are gone ...]\n" % lost


def utf8_edge(data: bytes, at: int) -> int:
    """The last place at or before `at` that does not lie inside a UTF-8 character."""
    for edge in range(at, max(at - _UTF8_MAX_BYTES, 0), -1):
        if edge >= len(data) or data[edge] & _CONTINUATION_MASK != _CONTINUATION:
            return edge
    return at  # not UTF-8


def whole_characters(data: bytes) -> int:
    """How many bytes come before a UTF-8 character that has begun at the end and is not whole."""
    decoder = _DECODER("replace")
    decoder.decode(data[1 - _UTF8_MAX_BYTES :])
    return len(data) - len(decoder.getstate()[0])


def _frame_one(prefix: bytes, text: bytes, lines: list[bytes]) -> bytes:
    while len(text) > MAX_LINE_BYTES:
        edge = text.rfind(b"\n", 0, MAX_LINE_BYTES + 1) + 1
        if edge:
            lines.append(_prefixed(prefix, text[:edge]))
        else:
            edge = utf8_edge(text, MAX_LINE_BYTES)
            lines.append(prefix + text[:edge] + CONTINUED + b"\n")
        text = text[edge:]
    end = text.rfind(b"\n") + 1
    if end:
        lines.append(_prefixed(prefix, text[:end]))
    return text[end:]


def _prefixed(prefix: bytes, whole: bytes) -> bytes:
    return prefix + whole[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
