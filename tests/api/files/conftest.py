"""What tests of files over HTTP share."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

Client = TestClient
AppClient = Callable[..., Awaitable[Client]]


class Answer(SimpleNamespace):
    """What came back: `status`, `headers`, `body`."""

    def json(self) -> Any:  # noqa: ANN401 - JSON is any
        return json.loads(self.body)

    @property
    def error(self) -> object:
        return self.json()["error"]


Call = Callable[..., Awaitable[Answer]]


def everything(directory: Path) -> list[Path]:
    """All that is below a directory."""
    return sorted(directory.rglob("*"))


@pytest.fixture
async def work(tmp_path: Path) -> Path:
    """The daemon's working directory."""
    return tmp_path / "work"


@pytest.fixture
async def call(app_client: AppClient) -> Call:
    """`await call("GET", "src/a%20b?x=1")`: the target stands after `/filesystem/` as it is.

    One that begins with `/` is the whole path.
    """
    client = await app_client()

    async def send(method: str, target: str, **options: object) -> Answer:
        path = target if target.startswith("/") else f"/filesystem/{target}"
        url = URL(path, encoded=True)
        if isinstance(options.get("data"), bytes):  # the client's own type would mean raw bytes
            options.setdefault("skip_auto_headers", ["Content-Type"])
        async with client.request(method, url, **options) as reply:  # type: ignore[arg-type]
            return Answer(status=reply.status, headers=reply.headers, body=await reply.read())

    return send
