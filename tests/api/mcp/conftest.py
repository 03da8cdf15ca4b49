"""The official client against the application."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from mcp import Client

OpenClient = Callable[..., Awaitable[TestClient]]
CallTool = Callable[..., Awaitable[Any]]
Connect = Callable[..., AbstractAsyncContextManager[Client]]

HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


@pytest.fixture
async def rpc(app_client: OpenClient) -> CallTool:
    """`await rpc("tools/call", name=…, arguments=…)`: the result or error of one bare request."""
    started: dict[str, Any] = {}

    async def call(method: str, *, settings: dict[str, Any] | None = None, **params: object) -> Any:  # noqa: ANN401 - JSON
        if "client" not in started:
            started["client"] = await app_client(**(settings or {}))
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = await started["client"].post("/mcp", json=message, headers=HEADERS)
        answer = await response.json(content_type=None)
        return answer.get("result", answer.get("error"))

    return call


@pytest.fixture
async def tool(rpc: CallTool) -> CallTool:
    """`await tool("fsReadFile", path="x")`: what a tool gives, or the text of its failure."""

    async def call(
        which: str, /, settings: dict[str, Any] | None = None, **arguments: object
    ) -> Any:  # noqa: ANN401 - JSON
        result = await rpc("tools/call", settings=settings, name=which, arguments=arguments)
        text = result["content"][0]["text"]
        if result.get("isError"):
            return text
        assert json.loads(text) == result["structuredContent"]
        return result["structuredContent"]

    return call


@pytest.fixture
async def official(app_client: OpenClient) -> Connect:
    """`async with official(mode="legacy") as client`: the official client, connected."""

    @asynccontextmanager
    async def connect(mode: str = "auto", **settings: object) -> AsyncIterator[Client]:
        started = await app_client(**settings)
        async with Client(str(started.make_url("/mcp")), mode=mode) as client:
            yield client

    return connect
