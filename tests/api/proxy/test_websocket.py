"""`/port`: after a 101 the two connections are one pipe."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError, web
from aiohttp.test_utils import TestClient

from sandbox_api.api.wire import SHUTDOWN
from tests.api.proxy.conftest import StartApp, StartRaw, exchange

BIG = "ü" * 500_000
UPGRADE = b"Host: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n\r\n"


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Says everything back; `close` closes with a code of its own."""
    socket = web.WebSocketResponse(protocols=("chat", "vite-hmr"), max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.data == "close":
            await socket.close(code=4001, message=b"as asked")
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


@pytest.mark.parametrize("compress", [0, 15])
async def test_messages_go_both_ways(
    client: TestClient, start_app: StartApp, compress: int
) -> None:
    """Text, bytes, large ones, subprotocol, extension, close code and reason are the app's."""
    port = await start_app(web.get("/ws", echo))
    path = f"/port/{port}/ws?token=app"
    async with (
        asyncio.timeout(20),
        client.ws_connect(
            path, protocols=("vite-hmr",), compress=compress, max_msg_size=0
        ) as socket,
    ):
        assert socket.protocol == "vite-hmr"
        assert socket.compress == compress
        for text in ("one", "", BIG):
            await socket.send_str(text)
            assert await socket.receive_str() == text
        await socket.send_bytes(b"\0\xff")
        assert await socket.receive_bytes() == b"\0\xff"
        await socket.send_str("close")
        last = await socket.receive()
        assert (last.type, last.data, last.extra) == (WSMsgType.CLOSE, 4001, "as asked")


async def test_a_ping_is_the_apps_to_answer(client: TestClient, start_app: StartApp) -> None:
    """With what it holds."""
    port = await start_app(web.get("/", echo))
    async with asyncio.timeout(10), client.ws_connect(f"/port/{port}/", autoping=False) as socket:
        await socket.ping(b"there?")
        answer = await socket.receive()
        assert (answer.type, answer.data) == (WSMsgType.PONG, b"there?")


async def test_a_client_that_closes_closes_the_app(client: TestClient, start_app: StartApp) -> None:
    """With its code, or without a word."""
    ends: asyncio.Queue[int | None] = asyncio.Queue()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("up")
        try:
            await socket.receive()
        finally:
            await ends.put(socket.close_code)
        return socket

    port = await start_app(web.get("/", serve))
    async with asyncio.timeout(10):
        socket = await client.ws_connect(f"/port/{port}/")
        await socket.receive_str()
        await socket.close(code=4002)
        assert await ends.get() == 4002
        socket = await client.ws_connect(f"/port/{port}/")
        await socket.receive_str()
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        assert await ends.get() in {None, 1006}


async def test_a_refused_upgrade_is_an_answer(client: TestClient, start_app: StartApp) -> None:
    """The app says no in its own words, and the connection goes on."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403, text="not you")

    port = await start_app(web.get("/", refuse))
    with pytest.raises(WSServerHandshakeError) as refused:
        await client.ws_connect(f"/port/{port}/")
    assert refused.value.status == 403
    head = b"GET /port/%d/ HTTP/1.1\r\n" % port + UPGRADE % b"websocket"
    got = await exchange(
        client, head + b"GET /health HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n"
    )
    assert b"not you" in got
    assert b'"status":"ok"' in got


async def test_any_bytes_go_through(client: TestClient, start_raw: StartRaw) -> None:
    """Also those that come with the handshake; nobody reads frames here."""
    noise = bytes(range(256)) * 4096

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: Upgrade\r\nUpgrade: websocket" in head
        writer.write(
            b"HTTP/1.1 101 UP\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\nhello"
        )
        while data := await reader.read(65536):
            writer.write(data)
            if data.endswith(b"END"):
                return

    port = await start_raw(serve)
    head = b"GET /port/%d/ HTTP/1.1\r\n" % port + UPGRADE % b"websocket"
    got = await exchange(client, head + noise + b"END")
    assert got == (
        b"HTTP/1.1 101 UP\r\nX: y\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        + noise
        + b"END"
    )


async def test_the_last_words_of_a_client_arrive(client: TestClient, start_raw: StartRaw) -> None:
    """It may leave as soon as it has said them."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await heard.put(await reader.read())

    port = await start_raw(serve)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /port/%d/ HTTP/1.1\r\n" % port + UPGRADE % b"websocket")
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x" * 1_000_000)
        writer.close()
        assert len(await heard.get()) == 1_000_000


async def test_a_reader_that_stalls_stops_the_writer(
    client: TestClient, start_raw: StartRaw, eventually: Callable[..., Awaitable[object]]
) -> None:
    """Both ways: nothing piles up in the daemon."""
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    port = await start_raw(flood)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1024)
    writer.write(b"GET /port/%d/ HTTP/1.1\r\n" % port + UPGRADE % b"websocket")
    await reader.readline()
    before = -1

    def stalled() -> bool:
        nonlocal before
        last, before = before, written
        return last == written > 0

    await eventually(stalled)
    assert (await client.get("/health")).status == 200
    writer.close()


async def test_g31_shutdown_ends_a_pipe(client: TestClient, start_app: StartApp) -> None:
    """Nobody waits for a WebSocket that never ends."""
    ended = asyncio.Event()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        try:
            await socket.receive()
        finally:
            ended.set()
        return socket

    port = await start_app(web.get("/", serve))
    socket = await client.ws_connect(f"/port/{port}/")
    client.app[SHUTDOWN].begin()
    async with asyncio.timeout(5):
        assert (await socket.receive()).type in {WSMsgType.CLOSED, WSMsgType.CLOSE}
        await ended.wait()
