"""`/port`: large bodies, which go through the kernel: byte-exact, and with the right end."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api import relay
from sandbox_api.api.bodies import FULL_READ_BYTES, LEAST_READ_BYTES, Chunked
from sandbox_api.api.relay import BETWEEN_BYTES, SPLICED_BYTES
from sandbox_api.core.splicing import PIPE_BYTES, Splice
from tests.api.proxy.conftest import OK, StartRaw

DATA = os.urandom(5 << 20)
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
SIZES = sorted(
    {
        edge + off
        for edge in (SPLICED_BYTES, PIPE_BYTES, BETWEEN_BYTES + SPLICED_BYTES, 2 * PIPE_BYTES)
        for off in (-1, 0, 1)
    }
)


def in_chunks(data: bytes, size: int) -> bytes:
    """A whole body on the wire, with extensions and a trailer."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    framed = [b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return b"".join([*framed, b"0\r\nX: y\r\n\r\n"])


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """A body, by its head."""
    if b"content-length: " in head.lower():
        return await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
    data = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return bytes(data)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each step through the kernel moved."""
    counts: list[int] = []

    class Counted(Splice):
        async def move(self, count: int) -> int:
            counts.append(await super().move(count))
            return counts[-1]

    monkeypatch.setattr(relay, "Splice", Counted)
    return counts


@pytest.fixture
async def echo(start_raw: StartRaw) -> int:
    """An app that reads a body and answers with it, framed as the path says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await read_body(reader, head)
        size = int(head.split(b"/")[1].split()[0])
        if size:
            answer = b"Transfer-Encoding: chunked\r\n\r\n" + in_chunks(body, size)
        else:
            answer = b"Content-Length: %d\r\n\r\n" % len(body) + body
        writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
        await writer.drain()

    return await start_raw(serve)


async def exchange_twice(client: TestClient, port: int, body: bytes, size: int) -> bytes:
    """Send a body, with another request right behind it; what comes back as the body."""
    framing = b"Transfer-Encoding: chunked" if size else b"Content-Length: %d" % len(body)
    head = b"PUT /port/%d/%d HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (port, size, framing)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 20)
    async with asyncio.timeout(60):
        writer.write(head + (in_chunks(body, size) if size else body) + LAST)
        got = await read_body(reader, await reader.readuntil(b"\r\n\r\n"))
        assert b'"status":"ok"' in await reader.read()
    writer.close()
    return got


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_sizes_around_every_edge(
    client: TestClient, echo: int, size: int, chunked: bool
) -> None:
    """A body, or its chunks, of about the size at which something else is done."""
    body = DATA[: 2 * size if chunked else size]
    assert await exchange_twice(client, echo, body, size if chunked else 0) == body


@pytest.mark.parametrize("size", [0, 1 << 20, 3 << 20])
async def test_both_ways_go_through_the_kernel(
    client: TestClient, echo: int, moved: list[int], size: int
) -> None:
    """Most of it: what was not read with the heads."""
    assert await exchange_twice(client, echo, DATA, size) == DATA
    assert sum(moved) > len(DATA)


async def test_an_answer_after_one_without_a_body(
    client: TestClient, start_raw: StartRaw, moved: list[int]
) -> None:
    """The app's connection is used again, and the way through the kernel is there as before."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"HEAD"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA)
        await reader.read()

    port = await start_raw(serve)
    assert (await client.head(f"/port/{port}/")).headers["Content-Length"] == str(len(DATA))
    async with asyncio.timeout(20), client.get(f"/port/{port}/") as answer:
        assert await answer.read() == DATA
    assert connections == 1
    assert sum(moved) > len(DATA) // 2


async def test_many_small_bodies_at_once(client: TestClient, echo: int) -> None:
    """More requests in one packet than are looked at one by one: all are answered, in order."""
    count = 100
    head = b"PUT /port/%d/0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % echo
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"".join(head + in_chunks(b"%03d\r\n\r\n" % n, 2) for n in range(count)))
    async with asyncio.timeout(30):
        for n in range(count):
            got = await read_body(reader, await reader.readuntil(b"\r\n\r\n"))
            assert got == b"%03d\r\n\r\n" % n
    writer.close()


@pytest.mark.parametrize("size", [100, 16384])
async def test_small_chunks_do_not(
    client: TestClient, echo: int, moved: list[int], size: int
) -> None:
    """They are not worth it; and they are still exact."""
    assert await exchange_twice(client, echo, DATA[: size * 200], size) == DATA[: size * 200]
    assert not moved


async def test_an_early_answer_leaves_the_connection_in_step(
    client: TestClient, start_raw: StartRaw
) -> None:
    """The app answers in the middle of a large body and closes; what is left of the body is not
    taken for the next request, which is answered."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2 << 20)
        writer.write(OK.replace(b"200 OK", b"413 No"))
        await writer.drain()

    port = await start_raw(refuse)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    size = 32 << 20
    head = b"PUT /port/%d/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (port, size)
    async with asyncio.timeout(30):
        writer.write(head + DATA)
        assert await reader.readuntil(b"\r\n\r\nok") == OK.replace(b"200 OK", b"413 No")
        writer.write(bytes(size - len(DATA)) + LAST)
        assert b'"status":"ok"' in await reader.read()
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_leaves_in_the_middle(
    client: TestClient, start_raw: StartRaw, chunked: bool
) -> None:
    """The app sees its connection end, and no end of the body."""
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await got.put(await reader.read())

    port = await start_raw(take)
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 8000000"
    writer.write(b"PUT /port/%d/ HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (port, framing))
    writer.write((b"7a1200\r\n" if chunked else b"") + DATA)
    await writer.drain()
    writer.close()
    async with asyncio.timeout(20):
        taken = await got.get()
    assert not taken.endswith(b"0\r\n\r\n")
    assert DATA[-1000:] in taken


async def test_an_app_that_leaves_in_the_middle_of_a_chunk(
    client: TestClient, start_raw: StartRaw
) -> None:
    """The client's connection is cut: no last chunk."""

    async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7a1200\r\n" + DATA)
        await writer.drain()

    port = await start_raw(give)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /port/%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port)
    got = bytearray()
    async with asyncio.timeout(20):
        try:
            while data := await reader.read(1 << 20):
                got += data
        except ConnectionError:
            pass
    assert not got.endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_slow_sender_is_not_waited_for(client: TestClient, start_raw: StartRaw) -> None:
    """A large body that comes in words goes on word by word, both ways."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n")
        while data := await reader.read(4096):
            writer.write(data)

    port = await start_raw(echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = b"PUT /port/%d/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n" % port
    async with asyncio.timeout(20):
        writer.write(head)
        await reader.readuntil(b"\r\n\r\n")
        for word in (b"one", b"two", b"three"):
            writer.write(word)
            assert await reader.readexactly(len(word)) == word
    writer.close()


async def test_an_app_that_stalls_stalls_the_client_alone(
    client: TestClient, start_raw: StartRaw, eventually: Callable[..., Awaitable[object]]
) -> None:
    """Nothing piles up in the daemon, and others are served meanwhile."""
    go = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await go.wait()

    port = await start_raw(stall)
    with socket.create_connection(("127.0.0.1", client.port)) as one:
        one.setblocking(False)
        loop, sent, before = asyncio.get_running_loop(), 0, -1
        head = b"PUT /port/%d/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        await loop.sock_sendall(one, head % (port, 1 << 40))

        def stalled() -> bool:
            nonlocal sent, before
            before = sent
            try:
                sent += one.send(DATA)
            except BlockingIOError:
                return before == sent > 0
            return False

        await eventually(stalled)
        assert (await client.get("/health")).status == 200
    go.set()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much was read at once of bodies in chunks."""
    told: list[int] = []
    decode = Chunked.feed

    def feed(self: Chunked, data: bytes) -> tuple[bytes, bytes]:
        told.append(len(data))
        return decode(self, data)

    monkeypatch.setattr(Chunked, "feed", feed)
    return told


@pytest.mark.parametrize("upload", [False, True])
async def test_small_chunks_are_read_little_by_little(
    client: TestClient, start_raw: StartRaw, reads: list[int], *, upload: bool
) -> None:
    """Each takes its time: where they are small, few are read at once, from the second read on.

    From an app, from the first one on.
    """
    data = DATA[:100_000]
    wire = in_chunks(data, 1)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.readuntil(b"\r\n\r\n")
        if upload:
            assert await read_body(reader, received) == data
            writer.write(OK)
        else:
            writer.write(head + wire)
        await writer.drain()

    path = f"/port/{await start_raw(serve)}/"
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    method, framing = ("PUT", "Transfer-Encoding: chunked\r\n") if upload else ("GET", "")
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n".encode())
    if upload:
        writer.write(wire)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert await read_body(reader, answer) == (b"ok" if upload else data)
    writer.close()
    assert len(reads) > len(wire) // FULL_READ_BYTES
    assert max(reads[1:] if upload else reads) <= LEAST_READ_BYTES
