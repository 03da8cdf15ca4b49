"""Bodies that are the file's bytes: as they are, and in several requests."""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.api.files.conftest import Answer, AppClient, Call

RAW = {"Content-Type": "application/octet-stream"}
DATA = b"0123456789"


def span(text: str) -> dict[str, str]:
    return {**RAW, "Content-Range": f"bytes {text}"}


async def read(work: Path) -> bytes:
    return (work / "f").read_bytes()


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b'{"content":"no"}', bytes(1_000_000)])
async def test_the_body_is_the_file(call: Call, work: Path, data: bytes) -> None:
    """Whatever it looks like."""
    answer = await call("PUT", "d/f", data=data, headers=RAW)
    assert (answer.status, answer.json()) == (
        200,
        {"path": "d/f", "message": "Binary file uploaded successfully"},
    )
    assert (work / "d/f").read_bytes() == data
    assert (await call("HEAD", "d/f")).headers["ETag"] == answer.headers["ETag"]


async def test_only_that_type_is_raw(call: Call, work: Path) -> None:
    """Everything else that is no form is JSON, as `curl -d` sends it."""
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = await call(
            "PUT", "f", data=b'{"content":"x"}', headers={"Content-Type": content_type}
        )
        assert (answer.status, await read(work)) == (200, b"x")
    upper = {"Content-Type": "Application/Octet-Stream; charset=binary"}
    assert (await call("PUT", "f", data=b"raw", headers=upper)).status == 200
    assert await read(work) == b"raw"


async def test_permissions_of_a_new_file(call: Call, work: Path) -> None:
    """In the query; what exists keeps its mode, as with a form."""
    assert (await call("PUT", "f?permissions=0750", data=b"x", headers=RAW)).status == 200
    assert (await call("PUT", "f?permissions=0600", data=b"x", headers=RAW)).status == 200
    assert stat.S_IMODE((work / "f").stat().st_mode) == 0o750
    answer = await call("PUT", "f?permissions=rwx", data=b"x", headers=RAW)
    assert (answer.status, str(answer.error)[:34]) == (400, "invalid permissions format 'rwx': ")


async def test_refusals(call: Call, work: Path) -> None:
    """The system's, with the texts of other uploads; what was there stays."""
    (work / "f").mkdir()
    answer = await call("PUT", "f", data=DATA, headers=RAW)
    assert (answer.status, answer.error) == (
        422,
        f"error writing binary file: open {work}/f: is a directory",
    )
    assert (await call("PUT", ".sandbox-api-x", data=DATA, headers=RAW)).status == 422


@pytest.mark.parametrize("how", ["Content-Range", "offset"])
async def test_g20_an_upload_in_several_requests(call: Call, work: Path, how: str) -> None:
    """The file has its old content until the last byte; then its new one and an ETag."""
    (work / "f").write_bytes(b"old")

    async def send(start: int, stop: int) -> Answer:
        if how == "offset" and stop == 10:
            return await call("PUT", f"f?offset={start}", data=DATA[start:stop], headers=RAW)
        return await call("PUT", "f", data=DATA[start:stop], headers=span(f"{start}-{stop - 1}/10"))

    answer = await send(0, 4)
    assert (answer.status, answer.json()) == (
        202,
        {
            "path": "f",
            "message": "4 of 10 bytes have come; go on at byte 4",
            "offset": 4,
            "total": 10,
        },
    )
    assert (await call("PUT", "f", data=b"", headers=span("*/10"))).json()["offset"] == 4
    answer = await send(6, 10)
    assert (answer.status, answer.json()["offset"]) == (409, 4)
    assert await read(work) == b"old"
    answer = await send(4, 10)
    assert (answer.status, await read(work)) == (200, DATA)
    assert answer.headers["ETag"] == (await call("HEAD", "f")).headers["ETag"]
    assert os.listdir(work) == ["f"]


@pytest.mark.parametrize("target", ["f?offset=0", "f"])
async def test_g20_a_connection_that_is_cut(
    app_client: AppClient,
    work: Path,
    eventually: Callable[..., Awaitable[object]],
    target: str,
) -> None:
    """What has come stays, and the upload goes on where it was cut."""
    client = await app_client()
    (work / "f").write_bytes(b"old")
    data = os.urandom(4_000_000)
    fields = RAW if "offset" in target else span(f"0-{len(data) - 1}/{len(data)}")
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    _, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(
        f"PUT /filesystem/{target} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(data)}\r\n{head}\r\n".encode()
    )
    writer.write(data[:3_000_000])
    await writer.drain()

    def received() -> int:
        return sum(p.stat().st_size for p in work.iterdir() if p.name.startswith("."))

    await eventually(lambda: received() == 3_000_000)
    writer.transport.abort()
    query = span(f"*/{len(data)}")
    async with client.put("/filesystem/f", data=b"", headers=query) as reply:
        offset = (await reply.json())["offset"]
    assert (offset, await read(work)) == (3_000_000, b"old")
    rest = f"/filesystem/f?offset={offset}"
    async with client.put(rest, data=data[offset:], headers=RAW) as reply:
        assert reply.status == 200
    assert await read(work) == data
    assert os.listdir(work) == ["f"]


@pytest.mark.parametrize(
    ("headers", "target", "data"),
    [
        (span("0-3/10"), "f", b"longer"),
        (span("0-9/5"), "f", DATA),
        (span("0-9/*"), "f", DATA),
        (span("5-3/10"), "f", b""),
        (span("*/10"), "f", DATA),
        ({**RAW, "Content-Range": "items 0-9/10"}, "f", DATA),
        (span("0-9/10"), "f?offset=0", DATA),
        (RAW, "f?offset=-1", DATA),
        (RAW, "f?offset=x", DATA),
        ({"Content-Type": "application/json", "Content-Range": "bytes 0-1/2"}, "f", b"{}"),
    ],
)
async def test_ranges_that_say_nothing(
    call: Call, work: Path, headers: dict[str, str], target: str, data: bytes
) -> None:
    """A part must never be taken for the whole file."""
    answer = await call("PUT", target, data=data, headers=headers)
    assert answer.status == 400
    assert str(answer.error)
    assert os.listdir(work) == []


async def test_a_part_without_a_length(call: Call, work: Path) -> None:
    """Nobody could tell where it ends."""

    async def pieces() -> object:
        yield DATA

    answer = await call("PUT", "f?offset=0", data=pieces(), headers=RAW)
    assert (answer.status, answer.error) == (400, "a part of a file needs a Content-Length")
    answer = await call("PUT", "f", data=pieces(), headers=RAW)
    assert (answer.status, await read(work)) == (200, DATA)


async def test_large_json_names_the_way_around(app_client: AppClient) -> None:
    """The 413 tells how to send it."""
    client = await app_client(max_json_bytes=10)
    async with client.put("/filesystem/f", json={"content": "x" * 20}) as reply:
        assert reply.status == 413
        assert "Content-Type: application/octet-stream" in (await reply.json())["error"]
