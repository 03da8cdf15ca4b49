"""What happens below the middleware: time-outs, paths as clients write them, half requests."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api import server
from sandbox_api.api.server import canonical_path

AppClient = Callable[..., Awaitable[TestClient]]


@pytest.mark.parametrize(
    ("sent", "routed"),
    [
        ("/health", "/health"),
        ("//filesystem//tmp/x", "/filesystem//tmp/x"),
        ("///x", "/x"),
        ("/filesystem//tmp/x", "/filesystem//tmp/x"),
        ("/filesystem%2Ftmp/a", "/filesystem/%2Ftmp/a"),
        ("/filesystem%2ftmp%2Fa", "/filesystem/%2Ftmp%2Fa"),
        ("/filesystem%2F", "/filesystem/%2F"),
        ("/watch/filesystem%2Ftmp", "/watch/filesystem/%2Ftmp"),
        ("/filesystem-find%2Ftmp", "/filesystem-find/%2Ftmp"),
        ("/filesystem/tree%2ftmp%2Fa", "/filesystem/tree/%2Ftmp%2Fa"),
        ("/filesystem/tree", "/filesystem/tree/"),
        ("//filesystem/tree", "/filesystem/tree/"),
        ("/filesystem/tree-x", "/filesystem/tree-x"),
        ("/filesystem-x%2Ftmp", "/filesystem-x%2Ftmp"),
        ("/process/a%2Fb", "/process/a%2Fb"),
        ("/filesystem/a%252Fb", "/filesystem/a%252Fb"),
    ],
)
def test_paths_are_routed_as_clients_mean_them(sent: str, routed: str) -> None:
    """The forms that official clients send (spec/filesystem.md 2.2); all else stays as it is."""
    assert canonical_path(sent) == routed


@pytest.mark.parametrize("begun", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
async def test_half_a_request_is_not_waited_for(
    app_client: AppClient, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """A connection that never finishes its request head is closed; so is a second, half request."""
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.2)
    client = await app_client()
    for first in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(first)
        if first:
            await reader.readuntil(b'"version":""}}')
        writer.write(begun)
        if begun or not first:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_an_idle_connection_is_kept(
    app_client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two requests the limit on half requests does not count."""
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.1)
    client = await app_client()
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    await reader.readuntil(b'"version":""}}')
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    writer.write(request)
    assert await reader.readuntil(b'"version":""}}')
    writer.close()


async def test_large_request_heads_are_served(app_client: AppClient) -> None:
    """Request lines and header fields up to 64 KiB."""
    client = await app_client()
    head = {"X-Large": "x" * 60_000}
    assert (await client.get("/health?" + "x" * 60_000, headers=head)).status == 200


async def test_a_slow_body_has_no_deadline_of_the_head(
    app_client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the head is whole, a body may take its time."""
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.1)
    client = await app_client()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.4)
    writer.write(b"}  ")
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_a_body_that_breaks_while_it_is_read(app_client: AppClient) -> None:
    """400 at once, once, and the connection is closed: nobody waits for what cannot come."""
    client = await app_client()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"PUT /filesystem//tmp/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    writer.write(b"3\r\nabc\r\n")
    await writer.drain()
    await client.get("/health")  # what was sent before has been read
    writer.write(b"3\r\nabc\r\nrubbish\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.count(b"HTTP/1.1 400") == answer.count(b"HTTP/") == 1
    writer.close()
