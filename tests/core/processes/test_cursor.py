"""Whatever is written, read and cut: a reader gets all of it, or a counted gap."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_api.api.processes.events import flush_events, frame_events
from sandbox_api.core.processes import framing, journal, logfile
from sandbox_api.core.processes.cursor import Cursor, Piece
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines
from sandbox_api.core.processes.journal import Kind, Position
from tests.core.processes.conftest import Writer, check_pieces, open_writer

Action = tuple[Any, ...]
KINDS = st.sampled_from([Kind.STDOUT, Kind.STDERR])
DATA = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text(min_size=1, max_size=20).map(str.encode),
    st.lists(st.sampled_from([b"a", b"\n", b"\xc3\xa9", b"\xe2\x82\xac"]), min_size=1).map(
        b"".join
    ),
)
WRITES = st.tuples(st.just("write"), KINDS, DATA)
READS = st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 50))
FOLLOWS = st.tuples(st.just("follow"))
FINISH = st.tuples(st.just("finish"))
FRACTIONS = st.floats(0, 1)
CUTS = st.tuples(st.just("cut"), KINDS, FRACTIONS)
FORGETS = st.tuples(st.just("forget"), FRACTIONS)
UNCUT = st.lists(st.one_of(WRITES, WRITES, READS, FOLLOWS, FINISH), max_size=40)
CUT = st.lists(st.one_of(WRITES, WRITES, READS, CUTS, FORGETS, FINISH), max_size=40)


@pytest.fixture(autouse=True, params=[0, journal.RENEW_NS], ids=["many marks", "few marks"])
def small_units(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pages of a few bytes, small blocks, short lines: small examples meet every edge."""
    with (
        patch.object(logfile, "PAGE_BYTES", 3),
        patch.object(journal, "PAGE_BYTES", 48),
        patch.object(journal, "RENEW_NS", request.param),
        patch.object(journal, "BLOCK_MARKS", 3),
        patch.object(framing, "MAX_LINE_BYTES", 16),
    ):
        yield


class Readers:
    """Two cursors over one output, and what each has got."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.cursors = [Cursor(writer.output), Cursor(writer.output)]
        self.got: list[list[Piece]] = [[], []]

    async def play(self, action: Action) -> None:
        """One step of an example."""
        output = self.writer.output
        match action:
            case "write", kind, data:
                await self.writer.write(kind, data)
            case "read", number, most:
                pieces = self.cursors[number].read(most)
                assert sum(len(piece.data) for piece in pieces) <= most
                self.got[number] += pieces
            case "cut", kind, fraction:
                output.logs[kind].cut(int(output.position[kind] * fraction))
            case "forget", fraction:
                if output.position.order:
                    output.journal.forget(int(output.position.order * fraction))
            case ("finish",):
                if output.end is None:
                    output.finish()

    def finish(self) -> None:
        """Read what is left."""
        for cursor, got in zip(self.cursors, self.got, strict=True):
            while more := cursor.read(7):
                got.extend(more)


@settings(deadline=None, max_examples=150)
@given(actions=UNCUT)
async def test_g02_all_readers_get_everything_in_one_order(
    actions: list[Action],
) -> None:
    """Two readers at their own pace and a later one get every byte, in the order it was written."""
    async with open_writer() as writer:
        readers = Readers(writer)
        for action in actions:
            await readers.play(action)
        readers.finish()
        late = Readers(writer)
        late.finish()
        for got in (*readers.got, *late.got):
            assert not any(piece.lost for piece in got)
            check_pieces(got, writer)
        marks = {tuple(p.position for p in got if p.kind is Kind.END) for got in readers.got}
        assert marks == {tuple(p.position for p in late.got[0] if p.kind is Kind.END)}


@settings(deadline=None, max_examples=250)
@given(actions=CUT)
async def test_g02_what_is_cut_is_a_counted_gap(
    actions: list[Action],
) -> None:
    """With heads of logs and marks cut away meanwhile: data or gap, never anything else."""
    async with open_writer() as writer:
        readers = Readers(writer)
        for action in actions:
            await readers.play(action)
        readers.finish()
        late = Readers(writer)
        late.finish()
        for got in (*readers.got, *late.got):
            check_pieces(got, writer)


async def _framed(follower: Follower[Unfinished], *, to_end: bool = False) -> bytes:
    framed = b""
    while (chunk := await follower.next(5.0 if to_end else 0.0)) or to_end:
        if chunk is None:
            break
        framed += chunk
    return framed


@settings(deadline=None, max_examples=150)
@given(actions=UNCUT)
async def test_g02_live_lines_are_a_prefix_of_every_replay(
    actions: list[Action],
) -> None:
    """What a follower was sent is at any time, byte for byte, the begin of a later replay."""
    async with open_writer() as writer:
        readers = Readers(writer)
        with Follower(writer.output, frame_lines, Unfinished(), flush_lines) as follower:
            live = b""
            for action in actions:
                await readers.play(action)
                if action[0] == "follow":
                    live += await _framed(follower)
            await readers.play(("finish",))
            live += await _framed(follower, to_end=True)
        with Follower(writer.output, frame_lines, Unfinished(), flush_lines) as later:
            replay = await _framed(later, to_end=True)
        assert replay.startswith(live)
        assert all(line[:7] in {b"stdout:", b"stderr:"} for line in replay.split(b"\n")[:-1])


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=200), cuts=st.lists(st.integers(0, 600), max_size=20), kind=KINDS)
def test_g03_lines_do_not_depend_on_chunks(text: str, cuts: list[int], kind: Kind) -> None:
    """The same text in other chunks is framed to the same lines, and characters stay whole."""
    data = text.encode()
    whole = _frame([data], kind)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[a:b] for a, b in pairwise(places)]
    assert _frame(chunks, kind) == whole
    whole.decode()  # raises where a character was cut


def _frame(chunks: list[bytes], kind: Kind) -> bytes:
    left, framed = Unfinished(), b""
    for chunk in chunks:
        lines, left = frame_lines([Piece(kind, Position(), chunk)], left)
        framed += lines
    return framed + flush_lines(left)


@settings(deadline=None, max_examples=150)
@given(
    data=st.one_of(st.binary(max_size=200), st.text(max_size=99).map(str.encode)),
    step=st.integers(1, 9),
)
def test_g03_events_never_cut_a_character(data: bytes, step: int) -> None:
    """The texts of all events, joined, are the text of all bytes: however they came."""
    left, framed = Unfinished(), b""
    for begin in range(0, len(data), step):
        piece = Piece(Kind.STDERR, Position(), data[begin : begin + step])
        events, left = frame_events([piece], left)
        framed += events
    framed += flush_events(left)
    texts = [json.loads(line)["data"] for line in framed.splitlines()]
    assert "".join(texts) == data.decode("utf-8", "replace")
