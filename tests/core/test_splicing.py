"""Bytes from socket to socket within the kernel: all of them, in order; nothing is left open."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_api.core import splicing
from sandbox_api.core.splicing import Splice

DATA = os.urandom(8 << 20)

Pair = tuple[socket.socket, socket.socket]


def pair() -> Pair:
    """Two ends of a connection that do not block."""
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def splice(source: int, target: int, count: int) -> int:
    """The whole way at once."""
    with Splice(source, target) as way:
        moved = await way.move(count)
        assert way.taken == moved
        return moved


@pytest.fixture
def ends() -> Iterator[tuple[Pair, Pair]]:
    """Where bytes come from, and where they go."""
    source, target = pair(), pair()
    yield source, target
    for one in (*source, *target):
        one.close()


async def read(one: socket.socket, count: int) -> bytes:
    """So many bytes."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < count and (more := await loop.sock_recv(one, 65536)):
        data += more
    return bytes(data)


@pytest.mark.parametrize("steps", [None, 0, 1, 8])
async def test_all_bytes_in_order(
    ends: tuple[Pair, Pair], steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the pipe and the sockets hold; also where splicing fails after so many steps."""
    (feed, source), (target, sink) = ends
    if steps is not None:
        left = iter(range(steps))

        def refuse(*arguments: int) -> int:
            if next(left, None) is None:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(*arguments)

        real = splicing._splice
        monkeypatch.setattr(splicing, "_splice", refuse)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        moved, _, got = await asyncio.gather(
            splice(source.fileno(), target.fileno(), len(DATA)),
            loop.sock_sendall(feed, DATA + b"next"),
            read(sink, len(DATA)),
        )
        assert moved == len(DATA)
        assert got == DATA
        assert await loop.sock_recv(source, 10) == b"next"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=6), st.integers(0, 9000))
def test_as_many_as_there_are(pieces: list[bytes], count: int) -> None:
    """The count, or all until the end of the source."""
    whole = b"".join(pieces)

    async def run() -> bytes:
        (feed, source), (target, sink) = pair(), pair()
        with feed, source, target, sink:
            for piece in pieces:
                feed.sendall(piece)
            feed.shutdown(socket.SHUT_WR)
            moved = await splice(source.fileno(), target.fileno(), count)
            assert moved == min(count, len(whole))
            return await read(sink, moved)

    assert asyncio.run(run()) == whole[:count]


async def test_a_target_that_is_gone(ends: tuple[Pair, Pair]) -> None:
    """An error, at once."""
    (feed, source), (target, sink) = ends
    sink.close()
    feed.sendall(b"x")
    with pytest.raises(BrokenPipeError):
        await splice(source.fileno(), target.fileno(), 1)


async def test_a_source_that_is_gone(ends: tuple[Pair, Pair]) -> None:
    """What came before is moved; then it has ended."""
    (feed, source), (target, sink) = ends
    feed.sendall(b"last")
    source.send(b"unread")  # so that it is an error and no end
    feed.close()
    assert await splice(source.fileno(), target.fileno(), 100) == 4
    assert sink.recv(10) == b"last"


async def test_what_was_taken_is_known_when_nobody_waits_for_it(ends: tuple[Pair, Pair]) -> None:
    """The rest is still in the source."""
    (feed, source), (target, _) = ends
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(feed, DATA))
    with Splice(source.fileno(), target.fileno()) as way:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(way.move(len(DATA)), 0.1)
        left = len(DATA) - way.taken
    assert 0 < left < len(DATA)
    async with asyncio.timeout(20):
        assert await read(source, left) == DATA[-left:]
        await sending


async def test_nothing_is_left_open(ends: tuple[Pair, Pair]) -> None:
    """Also when whoever waits for it leaves, on either side."""
    (feed, source), (target, _) = ends
    before = os.listdir("/proc/self/fd")
    waiting = asyncio.create_task(splice(source.fileno(), target.fileno(), len(DATA)))
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(feed, DATA))
    for task in (waiting, sending):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.1)
    assert os.listdir("/proc/self/fd") == before
