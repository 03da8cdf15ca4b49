"""Commands over HTTP in few words."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from yarl import URL

from sandbox_api.api.wire import PROCESSES
from sandbox_api.core.processes import Process

Json = dict[str, Any]


class ProcessApi:
    """A client of the process routes; each call checks the status."""

    def __init__(self, client: "TestClient[web.Request, web.Application]") -> None:
        self.client = client

    async def start(self, command: str, status: int = 200, **request: object) -> Json:
        """`POST /process` without waiting."""
        return await self._call("POST", "/process", status, {"command": command, **request})

    async def run(self, command: str, status: int = 200, **request: object) -> Json:
        """`POST /process`, waiting for the end."""
        return await self.start(command, status, waitForCompletion=True, **request)

    async def get(self, path: str | URL, status: int = 200) -> Any:  # noqa: ANN401 - JSON is any
        """A JSON reply."""
        return await self._call("GET", path, status)

    async def delete(self, path: str, status: int = 200) -> Json:
        """Stop, or kill."""
        return await self._call("DELETE", path, status)

    async def until(self, path: str, good: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - JSON
        """Get a path again and again until its JSON is as wanted."""
        async with asyncio.timeout(10):
            while True:
                if good(value := await self.get(path)):
                    return value
                await asyncio.sleep(0.01)

    def find(self, identifier: str) -> Process:
        """The process itself, to look inside."""
        process = self.client.app[PROCESSES].find(identifier)
        assert process is not None
        return process

    async def _call(
        self, method: str, path: str | URL, status: int, body: Mapping[str, object] | None = None
    ) -> Any:  # noqa: ANN401 - JSON is any
        async with self.client.request(method, path, json=body) as response:
            text = await response.text()
            assert response.status == status, text
            assert response.headers["Content-Type"] == "application/json; charset=utf-8"
            return json.loads(text)


OpenApi = Callable[..., Awaitable[ProcessApi]]


@pytest.fixture
def open_api(app_client: Callable[..., Awaitable[TestClient]]) -> OpenApi:
    """`api = await open_api(home="")`: the process routes of an application of its own."""

    async def start(**settings: object) -> ProcessApi:
        return ProcessApi(await app_client(**settings))

    return start


@pytest.fixture
async def api(open_api: OpenApi) -> ProcessApi:
    """The process routes, with default settings."""
    return await open_api()


class Gate:
    """A program waits at it, by `cat GATE`, until the test opens it, with some text or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    async def open(self, data: bytes = b"") -> None:
        """Let the program go on."""
        fd = await asyncio.to_thread(os.open, self.path, os.O_WRONLY)
        os.write(fd, data)
        os.close(fd)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate for one program."""
    return Gate(tmp_path / "gate")
