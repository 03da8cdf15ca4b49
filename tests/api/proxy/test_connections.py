"""`/port`: when a connection to an app is used again, and that nobody notices."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api import upstream
from sandbox_api.api.wire import APPS
from tests.api.proxy.conftest import OK, StartRaw


@pytest.fixture
async def patient(start_raw: StartRaw) -> SimpleNamespace:
    """An app that answers `answers` requests on a connection, and ends it at the next one."""
    kept = SimpleNamespace(connections=0, heads=[], answers=1000, answer=OK, ended=asyncio.Event())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.connections += 1
        try:
            for number in range(kept.answers + 1):
                kept.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if number < kept.answers:
                    writer.write(kept.answer)
        finally:
            kept.ended.set()

    kept.port = await start_raw(serve)
    return kept


async def ask(client: TestClient, port: int, method: str = "GET", data: bytes | None = None) -> str:
    """One request; the body of its answer."""
    async with client.request(method, f"/port/{port}/", data=data) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_a_connection_is_used_again(client: TestClient, patient: SimpleNamespace) -> None:
    """By requests that only ask; one that changes something has a connection of its own."""
    for method in ("GET", "GET", "OPTIONS"):
        await ask(client, patient.port, method)
    assert patient.connections == 1
    for method, data in (("POST", None), ("DELETE", None), ("PUT", b"x"), ("GET", b"x")):
        await ask(client, patient.port, method, data)
    assert patient.connections == 5
    assert all(b"Connection: close\r\n" in head for head in patient.heads[-4:])
    await ask(client, patient.port)
    assert patient.connections == 5


async def test_a_connection_that_the_app_has_closed(
    client: TestClient, patient: SimpleNamespace
) -> None:
    """Nobody notices: the request is made anew, once."""
    patient.answers = 1
    for _ in range(3):
        assert await ask(client, patient.port) == "ok"
    assert patient.connections == 3
    assert len(patient.heads) == 5


async def test_a_fresh_connection_that_the_app_closes_is_its_answer(
    client: TestClient, patient: SimpleNamespace
) -> None:
    """It is asked no second time."""
    patient.answers = 0
    async with client.get(f"/port/{patient.port}/") as answer:
        assert answer.status == 502
    assert patient.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + OK,
    ],
)
async def test_a_connection_that_is_not_used_again(
    client: TestClient, patient: SimpleNamespace, answer: bytes
) -> None:
    """The app said so, or it says more than it was asked."""
    patient.answer = answer
    for _ in range(2):
        assert await ask(client, patient.port) == "ok"
    assert patient.connections == 2


async def test_free_connections_are_few_and_soon_closed(
    client: TestClient, patient: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app may want to end."""
    monkeypatch.setattr(upstream, "MAX_IDLE", 2)
    apps = client.app[APPS]
    await asyncio.gather(*(ask(client, patient.port) for _ in range(8)))
    assert 1 <= len(apps._idle) <= 2
    monkeypatch.setattr(upstream, "IDLE_S", 0.05)
    await ask(client, patient.port)
    patient.ended.clear()
    await asyncio.wait_for(patient.ended.wait(), 10)
