"""Multipart sessions over HTTP: the exchanges that clients know, and what goes wrong in them."""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient
from yarl import URL

from sandbox_api.api.wire import UPLOADS
from tests.serving import free_port

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


async def test_whole_cycle(send: Send, work: Path) -> None:
    """What an SDK does, with all that it reads from the answers."""
    session = await initiate(send, "d/out.bin", permissions="0640")
    second, first = await upload(send, session, 2, b"BB"), await upload(send, session, 1, b"AAAA")

    status, reply = await send("GET", f"/{session}/parts")
    assert (status, reply["uploadId"]) == (200, session)
    assert [{**part, "uploadedAt": None} for part in reply["parts"]] == [
        {**first, "uploadedAt": None},
        {**second, "uploadedAt": None},
    ]
    status, reply = await send("GET", "")
    (listed,) = reply["uploads"]
    assert listed["initiatedAt"].endswith("Z")
    assert set(listed["parts"]) == {"1", "2"}
    assert {key: listed[key] for key in ("uploadId", "path", "permissions")} == {
        "uploadId": session,
        "path": f"{work}/d/out.bin",
        "permissions": 0o640,
    }
    assert not (work / "d").exists()

    status, reply = await send("POST", f"/{session}/complete", json={"parts": [first, second]})
    assert (status, reply) == (
        200,
        {"path": f"{work}/d/out.bin", "message": "Multipart upload completed successfully"},
    )
    assert (work / "d/out.bin").read_bytes() == b"AAAABB"
    assert await send("GET", "") == (200, {"uploads": []})


async def test_no_session_is_an_empty_list(send: Send, client: TestClient) -> None:
    """And HEAD tells whether something is there."""
    assert await send("GET", "") == (200, {"uploads": []})
    session = await initiate(send, "x")
    assert await send("GET", f"/{session}/parts") == (200, {"uploadId": session, "parts": []})
    for target, status in (("", 200), (f"/{session}/parts", 200), ("/nope/parts", 404)):
        assert (await client.head(f"{PREFIX}{target}")).status == status


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        (b"", 0o644),
        (b"no json", 0o644),
        (b"[]", 0o644),
        (b'{"permissions":384}', 0o644),
        (b'{"Permissions":"0600"}', 0o600),
    ],
)
async def test_initiate_forgives_every_body(send: Send, body: bytes, mode: int) -> None:
    """Only a mode that is a text has to be one."""
    assert (await send("POST", "/initiate/x", data=body))[0] == 200
    assert (await send("GET", ""))[1]["uploads"][0]["permissions"] == mode


async def test_initiate_refuses_a_bad_mode_and_a_reserved_name(send: Send) -> None:
    """With the texts that clients know."""
    status, reply = await send("POST", "/initiate/x", json={"permissions": "rwx"})
    assert (status, reply["error"][:29]) == (400, "invalid permissions format: '")
    assert (await send("POST", "/initiate/.sandbox-api-x"))[0] == 422
    assert (await send("POST", "/initiate/a%00b"))[0] == 400


@pytest.mark.parametrize("target", ["%2F{}", "/{}", "%2F{raw}", "/{raw}", "out", "./d//%2E%2E/out"])
async def test_forms_of_a_path(send: Send, tmp_path: Path, target: str) -> None:
    """The same as for /filesystem; the answer is always absolute."""
    raw = f"{tmp_path}/work/out"[1:]
    target = target.format(quote(raw, safe=""), raw=raw)
    status, reply = await send("POST", f"/initiate/{target}")
    assert (status, reply["path"]) == (200, f"{tmp_path}/work/out")


async def test_the_slash_of_a_path_may_be_its_escape(client: TestClient, tmp_path: Path) -> None:
    """`/initiate%2Ftmp/x`, as some clients write it."""
    url = URL(f"{PREFIX}/initiate%2F{str(tmp_path)[1:]}/x", encoded=True)
    async with client.post(url) as reply:
        assert (await reply.json())["path"] == f"{tmp_path}/x"


async def test_part_errors(send: Send, work: Path) -> None:
    """Each with its status and the text that clients or the reference's tests know."""
    session = await initiate(send, "x")
    good, other = form(b"x"), form(b"x", "other")
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    broken = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf'
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        (f"{session}/part", {"data": good}, 400, "partNumber is required"),
        (f"{session}/part?partNumber=abc", {"data": form(b"x")}, 400, "invalid partNumber: "),
        (f"{session}/part?partNumber=1.5", {"data": form(b"x")}, 400, "invalid partNumber: "),
        (
            f"{session}/part?partNumber=1",
            {"json": {}},
            400,
            "error reading multipart data: request Content-Type isn't multipart/form-data",
        ),
        (
            f"{session}/part?partNumber=1",
            {"data": other},
            400,
            "missing 'file' field in multipart form",
        ),
        (
            "nope/part?partNumber=0",
            {"data": form(b"x")},
            500,
            "failed to upload part: upload not found: nope",
        ),
        *(
            (
                f"{session}/part?partNumber={number}",
                {"data": form(b"x")},
                500,
                "failed to upload part: part number must be between 1 and 10000",
            )
            for number in (0, 10001, -1)
        ),
        (
            f"{session}/part?partNumber=1",
            {"data": broken, "headers": multipart},
            422,
            "failed to upload part: failed to write part: unexpected EOF",
        ),
    ]
    for target, options, status, error in cases:
        found, reply = await send("PUT", f"/{target}", **options)
        assert (found, reply["error"][: len(error)]) == (status, error), target
    assert await send("GET", f"/{session}/parts") == (200, {"uploadId": session, "parts": []})
    assert (await send("PUT", f"/{session}/part?partNumber=%2B3", data=form(b"x")))[0] == 200
    nameless = {"data": broken + b"\r\n--b--", "headers": multipart}
    assert (await send("PUT", f"/{session}/part?partNumber=4", **nameless))[1]["size"] == 4


async def test_complete_errors(send: Send, work: Path) -> None:
    """In the order of the checks: body, empty list, session, parts; the file is untouched."""
    (work / "x").write_text("old")
    session = await initiate(send, "x")
    part = await upload(send, session, 1, b"new")
    etag = part["etag"]
    complete = f"/{session}/complete"
    for target, body, status, error in (
        ("/nope/complete", b"{", 400, "invalid request body: "),
        ("/nope/complete", b'{"parts":"x"}', 400, "invalid request body: "),
        ("/nope/complete", b'{"parts":[]}', 400, "at least one part is required"),
        ("/nope/complete", b"{}", 400, "at least one part is required"),
        ("/nope/complete", b'{"parts":[{}]}', 404, "upload not found: nope"),
        (complete, b'{"parts":[{"partNumber":5}]}', 500, "failed to complete upload: part 5 not f"),
        (complete, b'{"parts":[{}]}', 500, "failed to complete upload: part 0 not found"),
        (
            complete,
            b'{"parts":[{"partNumber":1}]}',
            500,
            "failed to complete upload: etag mismatch for part 1",
        ),
        (
            complete,
            json.dumps({"parts": [part, part]}).encode(),
            400,
            "part 1 is listed twice",
        ),
    ):
        found, reply = await send("POST", target, data=body)
        assert (found, reply["error"][: len(error)]) == (status, error), body
    assert (work / "x").read_text() == "old"
    lenient = {"PARTS": [{"partnumber": 1, "ETag": etag, "size": None}]}
    assert (await send("POST", complete, json=lenient))[0] == 200
    assert (work / "x").read_text() == "new"


async def test_a_destination_that_cannot_be_written(send: Send, work: Path) -> None:
    """A 422 that says why, and the session stays."""
    (work / "d").mkdir()
    session = await initiate(send, "d")
    part = await upload(send, session, 1, b"x")
    status, reply = await send("POST", f"/{session}/complete", json={"parts": [part]})
    assert (status, reply["error"]) == (
        422,
        f"failed to complete upload: failed to create final file: open {work}/d: is a directory",
    )
    (work / "d").rmdir()
    assert (await send("POST", f"/{session}/complete", json={"parts": [part]}))[0] == 200


async def test_abort(send: Send, work: Path) -> None:
    """Nothing is left, and nothing can be done with the session any more."""
    session = await initiate(send, "x")
    part = await upload(send, session, 1, b"x")
    aborted = {"path": "", "message": "Multipart upload aborted successfully"}
    assert await send("DELETE", f"/{session}/abort") == (200, aborted)
    assert os.listdir(work) == []
    for method, target in (("DELETE", "abort"), ("GET", "parts"), ("POST", "complete")):
        status, reply = await send(method, f"/{session}/{target}", json={"parts": [part]})
        assert (status, reply["error"]) == (404, f"upload not found: {session}")
    status, reply = await send("PUT", f"/{session}/part?partNumber=1", data=form(b"x"))
    assert (status, reply["error"]) == (
        500,
        f"failed to upload part: upload not found: {session}",
    )


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


NAMES = [b"\xff\xfe", b"new\nline", b'qu"ote', b"back\\slash", b"%41", "é".encode(), b"n" * 255]


@pytest.mark.parametrize("name", NAMES)
async def test_every_name(send: Send, work: Path, name: bytes) -> None:
    """Of any bytes; what JSON cannot say stands in `rawPath`, ready for a URL."""
    target = quote(name, safe="")
    status, reply = await send("POST", f"/initiate/{target}")
    full = os.fsencode(work) + b"/" + name
    assert reply["path"] == full.decode("utf-8", "replace")
    assert reply.get("rawPath", quote(reply["path"], safe="")) == quote(full, safe="")
    (listed,) = (await send("GET", ""))[1]["uploads"]
    assert listed.get("rawPath") == reply.get("rawPath")
    part = await upload(send, reply["uploadId"], 1, b"x")
    status, done = await send("POST", f"/{reply['uploadId']}/complete", json={"parts": [part]})
    assert (status, done["path"]) == (200, reply["path"])
    assert os.listdir(os.fsencode(work)) == [name]


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
