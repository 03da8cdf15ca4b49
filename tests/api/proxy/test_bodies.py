"""Where a body ends, and what of it is data, however its bytes come."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp.streams import StreamReader
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.api.bodies import (
    MAX_LINE_BYTES,
    MAX_TRAILER_BYTES,
    Body,
    Chunked,
    Framing,
    MalformedBodyError,
    Sized,
)

SIZES = st.sampled_from(["{:x}", "{:X}", "000{:x}", "{:x} \t", "{:x};a=b", '{:x} ; a="b; c"'])
CHUNKS = st.lists(st.tuples(SIZES, st.binary(min_size=1, max_size=300)), max_size=8)
TRAILERS = st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ:\r\n"])
CUTS = st.lists(st.integers(1, 400), max_size=30)


def in_chunks(chunks: list[tuple[str, bytes]], trailers: bytes = b"") -> bytes:
    """A whole body on the wire."""
    framed = [size.format(len(data)).encode() + b"\r\n" + data + b"\r\n" for size, data in chunks]
    return b"".join([*framed, b"0\r\n", trailers, b"\r\n"])


def feed(framing: Framing, wire: bytes, cuts: list[int], *, skips: bool) -> tuple[bytes, bytes]:
    """Feed it in pieces; with `skips`, all that is clear goes another way. Data and rest."""
    data, sizes = bytearray(), iter(cuts)
    while wire and not framing.ended:
        if skips and framing.clear:
            count = min(framing.clear, next(sizes, 1000), len(wire))
            data += wire[:count]
            framing.skip(count)
            wire = wire[count:]
            continue
        count = next(sizes, len(wire))
        body, rest = framing.feed(wire[:count])
        data += body
        wire = rest + wire[count:]
    return bytes(data), wire


@given(CHUNKS, TRAILERS, CUTS, st.booleans(), st.binary(max_size=20))
def test_chunks(
    chunks: list[tuple[str, bytes]], trailers: bytes, cuts: list[int], skips: bool, behind: bytes
) -> None:
    """The data of all chunks and no more; what is behind the end is left."""
    framing = Chunked()
    got = feed(framing, in_chunks(chunks, trailers) + behind, cuts, skips=skips)
    assert got == (b"".join(data for _, data in chunks), behind)
    assert framing.ended


@given(st.binary(max_size=900), CUTS, st.booleans(), st.binary(max_size=20))
def test_a_length(data: bytes, cuts: list[int], skips: bool, behind: bytes) -> None:
    """So many bytes."""
    framing = Sized(len(data))
    assert feed(framing, data + behind, cuts, skips=skips) == (data, behind)
    assert framing.ended


@given(CHUNKS, st.integers(0, 3000))
def test_a_part_is_no_end(chunks: list[tuple[str, bytes]], count: int) -> None:
    """Nothing less than the whole body has ended."""
    wire = in_chunks(chunks)
    framing = Chunked()
    framing.feed(wire[:count])
    assert framing.ended == (count >= len(wire))


NOISE = st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b"1", b"g", b";", b" ", b"0\r\n\r\n"])
FAULTS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3), NOISE), max_size=3)


def outcome(wire: bytes, cuts: list[int]) -> object:
    """All that can be told of a body by who feeds it; None where it is malformed."""
    framing = Chunked()
    try:
        got = feed(framing, wire, cuts, skips=False)
    except MalformedBodyError:
        return None
    return got, framing.ended, framing.clear


@given(CHUNKS, TRAILERS, CUTS, FAULTS)
def test_whole_chunks_are_as_chunks_in_pieces(
    chunks: list[tuple[str, bytes]],
    trailers: bytes,
    cuts: list[int],
    faults: list[tuple[int, int, bytes]],
) -> None:
    """Byte by byte no chunk is ever whole: what takes them at once is no less strict than that."""
    wire = in_chunks(chunks, trailers)
    for where, count, noise in faults:
        place = where % (len(wire) + 1)
        wire = wire[:place] + noise + wire[place + count :]
    assert outcome(wire, cuts) == outcome(wire, [1] * len(wire))


def test_whole_chunks_take_one_step_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a match: of small ones, a read holds thousands."""
    framing = Chunked()
    lines = Mock(wraps=framing._feed_line)
    monkeypatch.setattr(framing, "_feed_line", lines)
    data, rest = framing.feed(b"1\r\na\r\n" * 1000 + b"1;x=y\r\na\r\n" + b"0\r\n\r\n")
    assert (len(data), rest) == (1001, b"")
    assert lines.call_count == 4  # the first one's two, and the two of the end


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b" 1\r\n",
        b"1 1\r\n",
        b"1\n",
        b"1\r\r\n",
        b"1;a\rb\r\n",
        b"1" * 16 + b"\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na\r\r\n",
        b"0\r\n\n",
        b"0\r\nX: y\n\r\n",
        b"1;" + b"a" * MAX_LINE_BYTES,
        b"1\r\na\r\n1;" + b"a" * MAX_LINE_BYTES + b"\r\na\r\n0\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * MAX_TRAILER_BYTES,
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_another_program_may_read_in_another_way(wire: bytes, step: int) -> None:
    """It is refused, for what is taken for a part of a body here may be a request there."""
    with pytest.raises(MalformedBodyError):
        feed(Chunked(), wire, [step] * len(wire), skips=False)


async def test_a_body_feeds_its_content() -> None:
    """In order; what was skipped is missing there."""
    content = StreamReader(Mock(), 1000, loop=asyncio.get_running_loop())
    body = Body(Chunked(), content)
    assert body.feed(b"5\r\nab") == b""
    assert (body.clear, body.ended) == (3, False)
    body.skip(3)
    assert body.feed(b"\r\n1\r\nc\r\n0\r\n\r\nGET /") == b"GET /"
    assert content.read_nowait() == b"abc"
    assert body.ended
