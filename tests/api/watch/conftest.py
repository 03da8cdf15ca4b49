"""What tests of watching over HTTP share: a stream of lines, read as it comes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from yarl import URL

Json = dict[str, Any]
AppClient = Callable[..., Awaitable[TestClient]]


class Lines:
    """One watch: its answer, and its lines."""

    def __init__(self, answer: ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> bytes:
        """The next line; empty at a clean end."""
        async with asyncio.timeout(20):
            return await self.answer.content.readline()

    async def event(self) -> Json:
        return json.loads(await self.next())

    async def told(self, count: int) -> list[str]:
        """`CREATE name` for each of so many lines."""
        events = [await self.event() for _ in range(count)]
        return [f"{event['op']} {event['name']}" for event in events]

    async def until(self, name: str) -> list[Json]:
        """All events up to the first of an entry of this name, which counts."""
        events = [await self.event()]
        while events[-1]["name"] != name:
            events.append(await self.event())
        return events


Watch = Callable[..., Awaitable[Lines]]


@pytest.fixture
async def client(app_client: AppClient) -> TestClient:
    return await app_client()


@pytest.fixture
def work(tmp_path: Path, client: TestClient) -> Path:
    """The daemon's working directory."""
    return tmp_path / "work"


@pytest.fixture
async def watch(client: TestClient) -> AsyncIterator[Watch]:
    """`lines = await watch("a%2Fb?x=1")`: the target stands after `/watch/filesystem/` as it is."""
    async with AsyncExitStack() as stack:

        async def start(target: str = "", status: int = 200) -> Lines:
            url = URL(f"/watch/filesystem/{target}", encoded=True)
            async with asyncio.timeout(20):
                answer = await stack.enter_async_context(client.get(url))
            assert answer.status == status
            return Lines(answer)

        yield start
