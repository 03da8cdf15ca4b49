"""Apps to be reached through the daemon: one of raw bytes, one of aiohttp, and clients of both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

AppClient = Callable[..., Awaitable[TestClient]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
StartRaw = Callable[..., Awaitable[int]]
StartApp = Callable[..., Awaitable[int]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def client(app_client: AppClient) -> TestClient:
    """The daemon."""
    return await app_client()


@pytest.fixture
async def start_raw() -> AsyncIterator[StartRaw]:
    """`port = await start_raw(serve, host="::1")`: `serve(reader, writer)` has each connection."""
    async with AsyncExitStack() as stack:

        async def start(serve: Serve, host: str = "127.0.0.1", port: int = 0) -> int:
            async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    await serve(reader, writer)
                except (ConnectionError, asyncio.IncompleteReadError):
                    pass
                finally:
                    writer.close()

            server = await asyncio.start_server(one, host, port)
            stack.callback(server.close)
            return int(server.sockets[0].getsockname()[1])

        yield start


@pytest.fixture
async def start_app() -> AsyncIterator[StartApp]:
    """`port = await start_app(web.get("/", handler))`: an aiohttp application."""
    async with AsyncExitStack() as stack:

        async def start(*routes: web.RouteDef) -> int:
            app = web.Application(client_max_size=1 << 40)
            app.add_routes(routes)
            runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return int(runner.addresses[0][1])

        yield start


@pytest.fixture
async def recorder(start_raw: StartRaw) -> SimpleNamespace:
    """An app that keeps every request head in `heads` and answers with `answer`; has a `port`."""
    told = SimpleNamespace(heads=[], answer=OK, port=0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(told.answer)
        await writer.drain()

    told.port = await start_raw(serve)
    return told


async def exchange(client: TestClient, request: bytes) -> bytes:
    """Send raw bytes to the daemon and read until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
