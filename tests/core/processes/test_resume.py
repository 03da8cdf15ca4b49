"""A reader that comes back: from where it was, from a time, or for the last lines."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_api.api.processes.events import Told, flush_offset_events, frame_offset_events
from sandbox_api.core.processes import begin, cursor, journal, logfile
from sandbox_api.core.processes.begin import ALIGN_BYTES, Begin, find_begin
from sandbox_api.core.processes.cursor import Cursor, Piece
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines
from sandbox_api.core.processes.journal import Kind, Position
from sandbox_api.core.processes.logfile import LogFile
from sandbox_api.core.processes.output import STREAMS, Output
from sandbox_api.core.processes.page import LEAST_BYTES, read_page
from sandbox_api.core.processes.tail import read_tail
from sandbox_api.errors import InvalidError
from tests.core.processes.conftest import Writer, open_writer

NS_PER_S = 1_000_000_000
KINDS = st.sampled_from(STREAMS)
DATA = st.lists(st.sampled_from([b"a", b"b\n", b"\n", b"\xc3\xa9", b"\xe2", b"\x82\xac"])).map(
    b"".join
)
FRACTIONS = st.floats(0, 1)
WRITES = st.tuples(st.just("write"), KINDS, DATA.filter(bool))
FINISH = st.tuples(st.just("finish"))
CUTS = st.tuples(st.just("cut"), KINDS, FRACTIONS)
FORGETS = st.tuples(st.just("forget"), FRACTIONS)
PLAYS = st.lists(st.one_of(WRITES, WRITES, WRITES, FINISH), max_size=25)
CUT_PLAYS = st.lists(st.one_of(WRITES, WRITES, WRITES, CUTS, FORGETS, FINISH), max_size=25)
SEEN = st.tuples(FRACTIONS, FRACTIONS)
RENEWALS = st.sampled_from([0, journal.RENEW_NS])


@asynccontextmanager
async def played(actions: list[tuple[Any, ...]], renew_ns: int) -> AsyncIterator[Writer]:
    """Output that was written, cut and ended as an example says; its units are small."""
    with (
        patch.object(logfile, "PAGE_BYTES", 3),
        patch.object(journal, "PAGE_BYTES", 48),
        patch.object(journal, "BLOCK_MARKS", 3),
        patch.object(journal, "RENEW_NS", renew_ns),
    ):
        async with open_writer() as writer:
            for action in actions:
                await _play(writer, action)
            yield writer


async def _play(writer: Writer, action: tuple[Any, ...]) -> None:
    match action:
        case "write", kind, data:
            await writer.write(kind, data)
        case "cut", kind, fraction:
            writer.output.logs[kind].cut(int(writer.output.position[kind] * fraction))
        case "forget", fraction:
            if order := writer.output.position.order:
                writer.output.journal.forget(int(order * fraction))
        case ("finish",):
            if writer.output.end is None:
                writer.output.finish()


def seen_of(writer: Writer, fractions: tuple[float, float]) -> Position:
    """Some bytes of each stream, which need not be of the same time."""
    return Position(
        *(round(n * part) for n, part in zip(writer.output.position, fractions, strict=True))
    )


def pieces_after(output: Output, seen: Position, most: int = 7) -> list[Piece]:
    """All that a reader gets that has so much."""
    reader, pieces = Cursor(output, seen), list[Piece]()
    while True:
        before = reader.place
        pieces += reader.read(most)
        if reader.place == before:
            return pieces


def check_resumed(pieces: list[Piece], writer: Writer, seen: Position) -> None:
    """Each stream goes on at its own offset, to its end; what is there is in its order."""
    at, order = seen, []
    for piece in pieces:
        if piece.kind is Kind.END:
            continue
        assert piece.position == at
        begin = at[piece.kind]
        if not piece.lost:
            assert piece.data == writer.written[piece.kind][begin : begin + len(piece.data)]
            order += [(piece.kind, begin + i) for i in range(len(piece.data))]
        assert (piece.lost > 0) != bool(piece.data)
        at = at.advance(piece.kind, piece.lost or len(piece.data))
    assert at == writer.output.position
    there = set(order)
    assert order == [place for place in writer.order if place in there]


@settings(deadline=None, max_examples=150)
@given(actions=PLAYS, seen=SEEN, renew_ns=RENEWALS)
async def test_g06_any_offsets_go_on_without_gap_or_double(
    actions: list[tuple[Any, ...]], seen: tuple[float, float], renew_ns: int
) -> None:
    """Whatever a reader has of each stream, it gets the rest of each, once, in its order."""
    async with played(actions, renew_ns) as writer:
        had = seen_of(writer, seen)
        pieces = pieces_after(writer.output, had)
        assert not any(piece.lost for piece in pieces)
        check_resumed(pieces, writer, had)


@settings(deadline=None, max_examples=150)
@given(actions=CUT_PLAYS, seen=SEEN, renew_ns=RENEWALS)
async def test_g06_what_was_cut_meanwhile_is_a_counted_gap(
    actions: list[tuple[Any, ...]], seen: tuple[float, float], renew_ns: int
) -> None:
    """The same where heads of logs and marks are gone: data or gap, counted from its offset."""
    async with played(actions, renew_ns) as writer:
        had = seen_of(writer, seen)
        check_resumed(pieces_after(writer.output, had), writer, had)


@settings(deadline=None, max_examples=100)
@given(before=CUT_PLAYS, after=CUT_PLAYS, seen=SEEN, reads=st.integers(0, 5))
async def test_g06_a_cut_after_the_reader_came_is_counted_as_well(
    before: list[tuple[Any, ...]],
    after: list[tuple[Any, ...]],
    seen: tuple[float, float],
    reads: int,
) -> None:
    """More is written and cut while a reader that came back reads on."""
    async with played(before, 0) as writer:
        had = seen_of(writer, seen)
        reader, pieces = Cursor(writer.output, had), list[Piece]()
        for _ in range(reads):
            pieces += reader.read(3)
        for action in after:
            await _play(writer, action)
        place = None
        while place != reader.place:
            place = reader.place
            pieces += reader.read(5)
        check_resumed(pieces, writer, had)


def all_events(output: Output, seen: Position, most: int) -> list[dict[str, Any]]:
    """The events that a client gets that resumes."""
    told, lines = Told(position=seen), b""
    for piece in pieces_after(output, seen, most):
        framed, told = frame_offset_events([piece], told)
        lines += framed
    lines += flush_offset_events(told)
    return [json.loads(line) for line in lines.splitlines()]


def texts(events: list[dict[str, Any]]) -> dict[str, str]:
    """The text of each stream."""
    joined = {"stdout": "", "stderr": ""}
    for event in events:
        if event["type"] != "gap":
            joined[event["type"]] += event["data"]
    return joined


@settings(deadline=None, max_examples=150)
@given(actions=PLAYS, most=st.integers(1, 9), cut=FRACTIONS, renew_ns=RENEWALS)
async def test_g06_events_resume_after_any_of_them(
    actions: list[tuple[Any, ...]], most: int, cut: float, renew_ns: int
) -> None:
    """The events up to one, and those from its offsets on, are together the whole text."""
    async with played(actions, renew_ns) as writer:
        ended = writer.output.end or Position()  # a character does not go on after an end
        whole = {
            kind.name.lower(): data[: ended[kind]].decode(errors="replace")
            + data[ended[kind] :].decode(errors="replace")
            for kind, data in writer.written.items()
        }
        events = all_events(writer.output, Position(), most)
        assert texts(events) == whole
        first = events[: round(len(events) * cut)]
        last = first[-1] if first else {"stdoutOffset": 0, "stderrOffset": 0}
        rest = all_events(
            writer.output, Position(last["stdoutOffset"], last["stderrOffset"]), 11 - most
        )
        assert texts(first + rest) == whole


@settings(deadline=None, max_examples=150)
@given(actions=PLAYS, max_bytes=st.integers(LEAST_BYTES, 30), renew_ns=RENEWALS)
async def test_g06_pages_are_together_the_whole(
    actions: list[tuple[Any, ...]], max_bytes: int, renew_ns: int
) -> None:
    """Page after page, each from where the last one ended: the text of one reply with everything,
    characters whole."""
    async with played(actions, renew_ns) as writer:
        whole = await read_page(writer.output, Position(), 0)
        at, joined = Position(), ["", "", ""]
        while (page := await read_page(writer.output, at, max_bytes)).end != at:
            assert len(page.logs.encode()) <= 3 * max_bytes  # broken bytes grow to U+FFFD
            joined = [text + more for text, more in zip(joined, page[:3], strict=True)]
            at = page.end
        assert at == whole.end
        assert joined == list(whole[:3])
        tail = await read_tail(writer.output, 0)
        assert (tail.stdout, tail.stderr, tail.end) == (whole.stdout, whole.stderr, whole.end)


def lines_after(output: Output, seen: Position) -> bytes:
    """The lines of a log stream, what is unfinished now included."""
    framed, left = frame_lines(pieces_after(output, seen), Unfinished())
    return framed + flush_lines(left)


@settings(deadline=None, max_examples=150)
@given(actions=PLAYS, count=st.integers(0, 12), renew_ns=RENEWALS, block=st.integers(1, 9))
async def test_last_lines_are_those_of_the_whole_stream(
    actions: list[tuple[Any, ...]], count: int, renew_ns: int, block: int
) -> None:
    """`tail=N` is what `tail -n N` makes of the whole log stream."""
    with patch.object(begin, "BLOCK_BYTES", block):
        async with played(actions, renew_ns) as writer:
            place = await find_begin(writer.output, Begin(last_lines=count))
            whole = lines_after(writer.output, Position()).splitlines(keepends=True)
            assert lines_after(writer.output, place) == b"".join(
                whole[max(len(whole) - count, 0) :]
            )


async def test_last_lines_of_a_cut_log_say_what_is_gone() -> None:
    """Where fewer lines are left than were asked for, the gap is told."""
    actions = [("write", Kind.STDOUT, b"one\ntwo\nthree\n"), ("cut", Kind.STDOUT, 0.5)]
    async with played(actions, 0) as writer:
        place = await find_begin(writer.output, Begin(last_lines=2))
        assert lines_after(writer.output, place).startswith(b"stdout:[... truncated, ")
        place = await find_begin(writer.output, Begin(last_lines=1))
        assert lines_after(writer.output, place) == b"stdout:three\n"


async def test_last_lines_read_only_the_end() -> None:
    """However long the log is, the search stops where the lines begin."""
    async with open_writer() as writer:
        for number in range(400):
            await writer.write(STREAMS[number % 2], b"x" * 499 + b"\n")
        count, read = 0, LogFile.read

        def counted(log: LogFile, offset: int, length: int) -> bytes:
            nonlocal count
            count += length
            return read(log, offset, length)

        with patch.object(LogFile, "read", counted), patch.object(begin, "BLOCK_BYTES", 4096):
            found = await find_begin(writer.output, Begin(last_lines=4))
        assert found == Position(99_000, 99_000)
        assert count < 20_000


@pytest.fixture
async def timed() -> AsyncIterator[Writer]:
    """Three lines and the begin of a fourth, ten seconds apart."""
    async with open_writer() as writer:
        for second, kind, data in (
            (10, Kind.STDOUT, b"ten\n"),
            (20, Kind.STDERR, b"twenty\n"),
            (30, Kind.STDOUT, b"thirty\nfor"),
            (40, Kind.STDOUT, b"ty\n"),
        ):
            with patch.object(time, "time_ns", lambda now=second: now * NS_PER_S):
                await writer.write(kind, data)
        yield writer


@pytest.mark.parametrize(
    ("since_s", "lines"),
    [
        (0, b"stdout:ten\nstderr:twenty\nstdout:thirty\nstdout:forty\n"),
        (10.05, b"stdout:ten\nstderr:twenty\nstdout:thirty\nstdout:forty\n"),
        (10.2, b"stderr:twenty\nstdout:thirty\nstdout:forty\n"),
        (20, b"stderr:twenty\nstdout:thirty\nstdout:forty\n"),
        (25, b"stdout:thirty\nstdout:forty\n"),
        (35, b"stdout:forty\n"),
        (50, b""),
    ],
)
async def test_since_gives_what_came_after(timed: Writer, since_s: float, lines: bytes) -> None:
    """Whole lines, a tenth of a second early at most, never late."""
    place = await find_begin(timed.output, Begin(since_ns=round(since_s * NS_PER_S)))
    assert lines_after(timed.output, place) == lines


async def test_a_clock_that_is_set_back_hides_nothing(timed: Writer) -> None:
    """What comes then has the time of what came before it."""
    with patch.object(time, "time_ns", lambda: 5 * NS_PER_S):
        await timed.write(Kind.STDERR, b"back\n")
    place = await find_begin(timed.output, Begin(since_ns=35 * NS_PER_S))
    assert lines_after(timed.output, place) == b"stdout:forty\nstderr:back\n"


async def test_since_goes_back_for_a_line_but_not_for_a_flood() -> None:
    """Output without newlines begins where the time was."""
    async with open_writer() as writer:
        flood = b"." * (ALIGN_BYTES + 1)
        for second in (10, 20):
            with patch.object(time, "time_ns", lambda now=second: now * NS_PER_S):
                await writer.write(Kind.STDOUT, flood)
        place = await find_begin(writer.output, Begin(since_ns=15 * NS_PER_S))
        assert place == Position(len(flood), 0)


async def test_of_several_wishes_the_least_counts(timed: Writer) -> None:
    """Offsets, a time and a number of lines together."""
    wanted = Begin(seen=Position(0, 7), since_ns=25 * NS_PER_S, last_lines=9)
    assert lines_after(timed.output, await find_begin(timed.output, wanted)) == (
        b"stdout:thirty\nstdout:forty\n"
    )


@pytest.mark.parametrize("seen", [Position(1, 0), Position(0, 1)])
async def test_more_than_there_is_was_not_of_this_run(seen: Position) -> None:
    """Offsets past the end are refused: to wait there would hide what comes before."""
    async with open_writer() as writer:
        with pytest.raises(InvalidError, match=r"invalid std\w+Offset: 1 is past the end"):
            await find_begin(writer.output, Begin(seen=seen))


async def test_a_reader_with_all_waits_for_more() -> None:
    """It gets what comes, and nothing of what it has."""
    async with open_writer() as writer:
        await writer.write(Kind.STDOUT, b"seen\n")
        seen = writer.output.position
        with Follower(writer.output, frame_lines, Unfinished(), flush_lines, seen) as follower:
            assert await follower.next(0.0) == b""
            await writer.write(Kind.STDERR, b"new\n")
            assert await follower.next(5.0) == b"stderr:new\n"
            writer.output.finish()
            assert await follower.next(5.0) is None
            assert follower.reached == writer.output.position


async def test_a_stream_that_is_far_behind_is_read_on() -> None:
    """Of one stream the reader has nothing, of the other everything: its many segments are passed,
    some at a time, and what is between them comes."""
    with patch.object(journal, "RENEW_NS", 0), patch.object(cursor, "READ_PIECES", 4):
        async with open_writer() as writer:
            await writer.write(Kind.STDERR, b"old\n")
            for _ in range(40):
                await writer.write(Kind.STDOUT, b".")
            await writer.write(Kind.STDERR, b"new\n")
            writer.output.finish()
            seen = Position(40, 0)
            with Follower(writer.output, frame_lines, Unfinished(), flush_lines, seen) as follower:
                assert await follower.next(5.0) == b"stderr:old\n"
                assert await follower.next(5.0) == b"stderr:new\n"
                assert await follower.next(5.0) is None
