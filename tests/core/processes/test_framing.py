"""Lines of a log stream: prefixes, gaps, and lines that are too long."""

from unittest.mock import patch

from sandbox_api.api.processes.events import frame_events
from sandbox_api.core.processes import framing
from sandbox_api.core.processes.cursor import Piece
from sandbox_api.core.processes.framing import CONTINUED, Unfinished, flush_lines, frame_lines
from sandbox_api.core.processes.journal import Kind, Position

NOTHING = Unfinished()
START = Position()


def out(data: bytes) -> Piece:
    """A piece of stdout."""
    return Piece(Kind.STDOUT, START, data)


def test_each_line_has_its_prefix() -> None:
    """One prefix a line, empty lines too, whatever else a piece holds."""
    framed, left = frame_lines([out(b"a\n\nb\nc"), Piece(Kind.STDERR, START, b"e\n")], NOTHING)
    assert framed == b"stdout:a\nstdout:\nstdout:b\nstderr:e\n"
    assert left == Unfinished(b"c", b"")


def test_unfinished_lines_of_both_streams_do_not_mix() -> None:
    """A line stands where its newline came, even if the other stream wrote in between."""
    pieces = [out(b"10"), Piece(Kind.STDERR, START, b"x"), out(b"4\n")]
    framed, left = frame_lines(pieces, NOTHING)
    assert framed == b"stdout:104\n"
    assert flush_lines(left) == b"stderr:x\n"


def test_the_end_flushes_what_has_no_newline() -> None:
    """What a background child writes after the end begins a line of its own."""
    pieces = [out(b"main"), Piece(Kind.END, START), out(b"late\n")]
    assert frame_lines(pieces, NOTHING) == (b"stdout:main\nstdout:late\n", NOTHING)


def test_a_gap_keeps_what_was_read_before_it() -> None:
    """A line whose end was cut for space is sent as far as it was read; the gap says the rest."""
    gap = Piece(Kind.STDOUT, START, lost=70)
    framed, left = frame_lines([out(b"begun"), gap, out(b"rest\n")], NOTHING)
    marker = b"stdout:[... truncated, 70 bytes are gone ...]\n"
    assert framed == b"stdout:begun\n" + marker + b"stdout:rest\n"
    assert left == NOTHING


def test_a_gap_in_events_keeps_the_broken_character_before_it() -> None:
    """The same for NDJSON: the gap is an event of its stream."""
    events, left = frame_events([out("é".encode()[:1]), Piece(Kind.STDOUT, START, lost=7)], NOTHING)
    text = "\ufffd[... truncated, 7 bytes are gone ...]\\n"
    assert events.decode() == f'{{"type":"stdout","data":"{text}"}}\n'
    assert left == NOTHING


def test_a_line_that_is_too_long_is_split_with_a_mark() -> None:
    """The parts, joined, are the line; no character is cut; short lines beside it stay whole."""
    line = "é".encode() * 20
    with patch.object(framing, "MAX_LINE_BYTES", 16):
        framed, left = frame_lines([out(b"a\n" + line + b"\nb\n" + b"c" * 16 + b"\n")], NOTHING)
    lines = framed.splitlines()
    assert left == NOTHING
    parts = [part.removeprefix(b"stdout:").removesuffix(CONTINUED) for part in lines[1:4]]
    assert lines[0] == b"stdout:a"
    assert b"".join(parts) == line
    assert [part.endswith(CONTINUED) for part in lines[1:4]] == [True, True, False]
    assert lines[4:] == [b"stdout:b", b"stdout:" + b"c" * 16]


def test_split_of_what_is_no_text() -> None:
    """Bytes that are not UTF-8 are split at the limit, and none is lost."""
    with patch.object(framing, "MAX_LINE_BYTES", 16):
        framed, left = frame_lines([out(b"\x80" * 40)], NOTHING)
    assert framed.count(b"\x80") + left.stdout.count(b"\x80") == 40
