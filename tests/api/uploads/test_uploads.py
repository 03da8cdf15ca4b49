"""Multipart sessions over HTTP: the exchanges that clients know, and every refusal."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from tests.api.uploads.conftest import PREFIX, Send, form, initiate, upload


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
    unclosed = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf'
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    one = f"{session}/part?partNumber=1"
    upload = "failed to upload part: "
    number = f"{upload}part number must be between 1 and 10000"
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        (f"{session}/part", {}, 400, "partNumber is required"),
        (f"{session}/part?partNumber=abc", {}, 400, "invalid partNumber: "),
        (f"{session}/part?partNumber=1.5", {}, 400, "invalid partNumber: "),
        (one, {"json": {}}, 400, "error reading multipart data: request Content-Type isn't "),
        (one, {"data": form(b"x", "other")}, 400, "missing 'file' field in multipart form"),
        ("nope/part?partNumber=0", {}, 500, f"{upload}upload not found: nope"),
        (f"{session}/part?partNumber=0", {}, 500, number),
        (f"{session}/part?partNumber=10001", {}, 500, number),
        (f"{session}/part?partNumber=-1", {}, 500, number),
        (
            one,
            {"data": unclosed, "headers": multipart},
            422,
            f"{upload}failed to write part: unexpected EOF",
        ),
    ]
    for target, options, status, error in cases:
        found, reply = await send("PUT", f"/{target}", **(options or {"data": form(b"x")}))
        assert (found, reply["error"][: len(error)]) == (status, error), target
    assert await send("GET", f"/{session}/parts") == (200, {"uploadId": session, "parts": []})
    assert (await send("PUT", f"/{session}/part?partNumber=%2B3", data=form(b"x")))[0] == 200
    nameless = {"data": unclosed + b"\r\n--b--", "headers": multipart}
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


async def test_complete_under_a_condition(send: Send, client: TestClient, work: Path) -> None:
    """A 412 leaves the file and the session; one that fits completes it."""
    (work / "f").write_bytes(b"old")
    async with client.head("/filesystem/f") as reply:
        current = reply.headers["ETag"]
    session = await initiate(send, "f")
    body = {"parts": [await upload(send, session, 1, b"new")]}
    for name, value in (("If-Match", '"x"'), ("If-None-Match", current), ("If-None-Match", "*")):
        status, answer = await send(
            "POST", f"/{session}/complete", json=body, headers={name: value}
        )
        assert (status, f"{name} does not hold" in answer["error"]) == (412, True)
        assert (work / "f").read_bytes() == b"old"
    status, _ = await send("POST", f"/{session}/complete", json=body, headers={"If-Match": current})
    assert (status, (work / "f").read_bytes()) == (200, b"new")
    assert os.listdir(work) == ["f"]
