"""Multipart sessions in which something comes between: cuts, readers, deletions, restarts."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api.wire import UPLOADS
from tests.api.uploads.conftest import PREFIX, Send, blocks, form, initiate, upload
from tests.serving import free_port


async def test_g22_a_part_whose_connection_is_cut(
    client: TestClient, send: Send, work: Path, eventually: Callable[..., Awaitable[object]]
) -> None:
    """It is forgotten, and the same number can be sent again at once."""
    session = await initiate(send, "x")
    _, writer = await asyncio.open_connection(client.server.host, client.server.port)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="p"\r\n\r\n'
    writer.write(
        f"PUT {PREFIX}/{session}/part?partNumber=1 HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 8388608\r\n\r\n".encode()
        + head
        + bytes(3 << 20)
    )
    await writer.drain()
    owner = client.app[UPLOADS] if client.app is not None else None
    assert owner is not None
    await eventually(lambda: owner.get(session).writers == 1)
    writer.transport.abort()
    await eventually(lambda: owner.get(session).writers == 0)
    assert (await send("GET", f"/{session}/parts"))[1]["parts"] == []
    assert blocks(work) < 64
    part = await upload(send, session, 1, b"again")
    await send("POST", f"/{session}/complete", json={"parts": [part]})
    assert (work / "x").read_bytes() == b"again"


async def test_g22_listing_while_parts_arrive(send: Send, work: Path) -> None:
    """16 uploaders and 4 readers: no error, nothing lost."""
    session = await initiate(send, "x")
    contents = {number: bytes([number]) * 5000 for number in range(1, 17)}

    async def list_often() -> None:
        for _ in range(25):
            assert (await send("GET", ""))[0] == 200
            assert (await send("GET", f"/{session}/parts"))[0] == 200

    readers = [asyncio.create_task(list_often()) for _ in range(4)]
    parts = await asyncio.gather(
        *(upload(send, session, number, data) for number, data in contents.items())
    )
    await asyncio.gather(*readers)
    assert (await send("POST", f"/{session}/complete", json={"parts": parts}))[0] == 200
    assert (work / "x").read_bytes() == b"".join(contents.values())


async def test_parts_are_hidden(send: Send, client: TestClient, work: Path) -> None:
    """No listing shows them, nobody reads them, and they do not keep a directory from going."""
    (work / "d").mkdir()
    session = await initiate(send, "d/x")
    part = await upload(send, session, 1, b"x")
    (name,) = os.listdir(work / "d")
    async with client.get("/filesystem/d") as reply:
        assert (await reply.json())["files"] == []
    assert (await client.get(f"/filesystem/d/{name}")).status == 404
    assert (await client.delete("/filesystem/d")).status == 200
    status, reply = await send("POST", f"/{session}/complete", json={"parts": [part]})
    assert (status, "the bytes of part 1 were deleted" in reply["error"]) == (422, True)
    part = await upload(send, session, 1, b"x")
    assert (await send("POST", f"/{session}/complete", json={"parts": [part]}))[0] == 200
    assert (work / "d/x").read_bytes() == b"x"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_g22_a_session_survives_the_daemon(
    start_daemon: Callable[..., SimpleNamespace], tmp_path: Path, how: signal.Signals
) -> None:
    """Ended or killed, the next daemon of the same port goes on."""
    daemon = start_daemon("-p", str(free_port()))
    async with aiohttp.ClientSession() as http:

        def url(target: str) -> str:
            return f"http://127.0.0.1:{daemon.port}{PREFIX}{target}"

        async with http.post(url("/initiate/out")) as reply:
            session = (await reply.json())["uploadId"]
        parts = []
        for number, data in ((1, b"a" * 4096), (2, b"b")):
            if number == 2:
                daemon.process.send_signal(how)
                daemon.process.wait(10)
                daemon = start_daemon("-p", str(daemon.port))
            target = url(f"/{session}/part?partNumber={number}")
            async with http.put(target, data=form(data)) as reply:
                parts.append(await reply.json())
        async with http.post(url(f"/{session}/complete"), json={"parts": parts}) as reply:
            assert reply.status == 200
    assert (tmp_path / "out").read_bytes() == b"a" * 4096 + b"b"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".sandbox-api-")]
