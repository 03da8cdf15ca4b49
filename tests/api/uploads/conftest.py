"""What tests of multipart sessions over HTTP share."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient
from yarl import URL

PREFIX = "/filesystem-multipart"

AppClient = Callable[..., Awaitable[TestClient]]
Answer = tuple[int, Any]
Send = Callable[..., Awaitable[Answer]]


def form(data: bytes, field: str = "file") -> FormData:
    body = FormData(default_to_multipart=True)
    body.add_field(field, data, filename="part")
    return body


@pytest.fixture
async def client(app_client: AppClient) -> TestClient:
    """The application."""
    return await app_client()


@pytest.fixture
async def work(tmp_path: Path) -> Path:
    """The daemon's working directory."""
    return tmp_path / "work"


@pytest.fixture
async def send(client: TestClient) -> Send:
    """`status, body = await send("GET", "/parts")`: what stands behind the prefix, as it is."""

    async def call(method: str, target: str, **options: object) -> Answer:
        url = URL(f"{PREFIX}{target}", encoded=True)
        async with client.request(method, url, **options) as reply:  # type: ignore[arg-type]
            return reply.status, json.loads(await reply.read())

    return call


def blocks(directory: Path) -> int:
    """What the files in a directory take of the disk, in units of 512 bytes."""
    return sum(path.stat().st_blocks for path in directory.iterdir())


async def initiate(send: Send, target: str, **body: object) -> str:
    status, reply = await send("POST", f"/initiate/{target}", json=body)
    assert status == 200
    return str(reply["uploadId"])


async def upload(send: Send, session: str, number: int, data: bytes) -> dict[str, object]:
    status, reply = await send("PUT", f"/{session}/part?partNumber={number}", data=form(data))
    assert status == 200, reply
    assert reply == {
        "partNumber": number,
        "etag": hashlib.md5(data).hexdigest(),
        "size": len(data),
    }
    return dict(reply)
