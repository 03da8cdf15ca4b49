"""`/port`: bodies go both ways as they come, and an end on one side is an end on the other."""

import asyncio
import hashlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import pytest
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestClient

from tests.api.proxy.conftest import StartApp, StartRaw

CHUNK = os.urandom(1 << 20)
MIB_OF_A_GB = 1024
GROWTH_BYTES = 64 << 20


async def test_events_come_one_by_one(client: TestClient, start_app: StartApp) -> None:
    """A server-sent event is at the client before the app goes on."""
    go = asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(b"data: %d\n\n" % number)
            await go.wait()
            go.clear()
        return response

    port = await start_app(web.get("/events", events))
    async with asyncio.timeout(10), client.get(f"/port/{port}/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        for number in range(3):
            assert await answer.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
            go.set()
        assert await answer.content.read() == b""


async def test_headers_come_before_the_body(client: TestClient, start_app: StartApp) -> None:
    """Who waits for a long poll knows at once that it was taken."""

    async def wait(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    port = await start_app(web.get("/", wait))
    async with asyncio.timeout(10), client.get(f"/port/{port}") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("sized", [True, False])
async def test_a_request_body_comes_as_it_is_sent(
    client: TestClient, start_app: StartApp, sized: bool
) -> None:
    """With a length or in chunks, and not before it is whole."""
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        assert ("Content-Length" in request.headers) == sized
        async for data in request.content.iter_any():
            await got.put(data)
        return web.Response(text="done")

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two"):
            yield piece
            assert await got.get() == piece

    port = await start_app(web.post("/", take))
    headers = {"Content-Length": "6"} if sized else {}
    async with asyncio.timeout(10):
        answer = await client.post(f"/port/{port}/", data=pieces(), headers=headers)
        assert await answer.text() == "done"


async def test_both_ways_at_once(client: TestClient, start_app: StartApp) -> None:
    """An echo answers while it is still being asked."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for data in request.content.iter_any():
            await response.write(data)
        return response

    async def say() -> AsyncIterator[bytes]:
        for word in (b"a", b"b", b"c"):
            yield word
            assert await heard.get() == word

    port = await start_app(web.post("/", echo))
    async with asyncio.timeout(10), client.post(f"/port/{port}/", data=say()) as answer:
        async for word in answer.content.iter_any():
            await heard.put(word)


async def test_an_answer_before_the_body_is_read(client: TestClient, start_raw: StartRaw) -> None:
    """A refusal reaches the client though the app takes no more."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    port = await start_raw(refuse)
    head = b"POST /port/%d/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" % port
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(head + b"x" * 1000)
    assert await asyncio.wait_for(reader.readline(), 10) == b"HTTP/1.1 413 Too Much\r\n"
    writer.close()


async def test_a_malformed_body_is_the_clients_fault(
    client: TestClient, start_raw: StartRaw
) -> None:
    """400, and the app sees its connection end."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        try:
            await reader.read()
        finally:
            ended.set()

    port = await start_raw(serve)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = b"POST /port/%d/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % port
    writer.write(head + b"3\r\nabc\r\n")
    await asyncio.wait_for(begun.wait(), 10)
    writer.write(b"3\r\nabc\r\nrubbish\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
    await asyncio.wait_for(ended.wait(), 10)
    writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_g07_a_cut_answer_is_cut(
    client: TestClient, recorder: SimpleNamespace, answer: bytes
) -> None:
    """An app that dies in the middle of an answer has not ended it."""
    recorder.answer = answer
    with pytest.raises(ClientError):
        async with client.get(f"/port/{recorder.port}/") as got:
            await got.read()


@pytest.mark.parametrize("sent", [16, 24, 32])
async def test_a_large_answer_is_whole_or_cut(
    client: TestClient, start_raw: StartRaw, sent: int
) -> None:
    """What goes through the kernel alone too; the client's connection goes on after a whole one."""

    async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (32 << 20))
        for _ in range(sent):
            writer.write(CHUNK)
            await writer.drain()

    port = await start_raw(give)
    async with client.get(f"/port/{port}/") as answer:
        if sent < 32:
            with pytest.raises(ClientError):
                await answer.read()
            return
        assert await answer.read() == CHUNK * sent
    assert (await client.get("/health")).status == 200


async def test_a_client_that_leaves_ends_the_apps_work(
    client: TestClient, start_app: StartApp
) -> None:
    """Before the answer and within it."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.query_string:
            response.content_length = 32 << 20 if "large" in request.query else None
            await response.prepare(request)
            await response.write(b"x" if "stream" in request.query else CHUNK)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return response

    port = await start_app(web.get("/", work))
    for query in ("", "?stream", "?large"):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /port/%d/%s HTTP/1.1\r\nHost: x\r\n\r\n" % (port, query.encode()))
        async with asyncio.timeout(10):
            await begun.wait()
            writer.close()
            assert await ended.wait()
        begun.clear()
        ended.clear()


async def test_a_stalled_client_stalls_the_app_alone(
    client: TestClient, start_app: StartApp, eventually: Callable[..., Awaitable[object]]
) -> None:
    """Nothing piles up in the daemon, and others are served meanwhile."""
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(CHUNK)
            sent += len(CHUNK)

    port = await start_app(web.get("/", flood))
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1024)
    writer.write(b"GET /port/%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port)
    await reader.readline()
    before = -1

    def stalled() -> bool:
        nonlocal before
        last, before = before, sent
        return last == sent > 0

    await eventually(stalled)
    assert (await client.get("/health")).status == 200
    writer.close()


def resident_bytes(pid: int) -> int:
    """The memory of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Gigabyte:
    """An app that gives a gigabyte, and tells the hash of what it takes."""

    def __init__(self) -> None:
        whole = hashlib.sha256()
        for _ in range(MIB_OF_A_GB):
            whole.update(CHUNK)
        self.sha256 = whole.hexdigest()

    async def give(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = MIB_OF_A_GB << 20
        await response.prepare(request)
        async for data in self.pieces():
            await response.write(data)
        return response

    async def take(self, request: web.Request) -> web.Response:
        got = hashlib.sha256()
        async for data in request.content.iter_any():
            got.update(data)
        return web.Response(text=got.hexdigest())

    async def pieces(self) -> AsyncIterator[bytes]:
        for _ in range(MIB_OF_A_GB):
            yield CHUNK


@pytest.mark.slow
async def test_a_gigabyte_each_way_in_flat_memory(
    start_daemon: Callable[..., SimpleNamespace], start_app: StartApp
) -> None:
    """Byte-exact, and the daemon keeps one buffer."""
    app = Gigabyte()
    port = await start_app(web.get("/", app.give), web.put("/", app.take))
    daemon = await asyncio.to_thread(start_daemon)
    pid, base = daemon.process.pid, f"http://127.0.0.1:{daemon.port}"
    async with ClientSession(base) as session:
        (await session.get("/health")).release()
        before = most = resident_bytes(pid)
        got = hashlib.sha256()
        async with session.get(f"/port/{port}/") as answer:
            async for data in answer.content.iter_any():
                got.update(data)
                most = max(most, resident_bytes(pid))
        assert got.hexdigest() == app.sha256
        async with session.put(f"/port/{port}/", data=app.pieces()) as answer:
            assert await answer.text() == app.sha256
        most = max(most, resident_bytes(pid))
    assert most - before < GROWTH_BYTES


def test_shutdown_does_not_wait_for_an_app(start_daemon: Callable[..., SimpleNamespace]) -> None:
    """G31: a stream of an app that never ends is cut."""
    daemon = start_daemon()
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); c, _ = s.accept(); c.recv(9999); "
        r"c.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n'); c.recv(9)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        port = int(app.stdout.readline())
        url = f"http://127.0.0.1:{daemon.port}/port/{port}/"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read(1) == b"x"
            daemon.process.terminate()
            with pytest.raises(Exception, match=r"IncompleteRead|reset"):
                answer.read()
        assert daemon.process.wait(5) == 0
        assert app.wait(5) == 0  # it saw the end of its connection
