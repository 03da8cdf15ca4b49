"""Names of any bytes, in every file route and header (RFC 6266, RFC 5987)."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest
from aiohttp import FormData

from tests.api.files.conftest import Call

NAMES = [
    b"\xff\xfe",
    b"a\nb\rc",
    b'qu"ote',
    b"back\\slash",
    b"semi;colon, comma",
    b"%41%2F%",
    b" space ",
    "é☃".encode(),
    b"-",
    b"\x01\x7f",
    b"n" * 255,
    b"\xe9" * 255,
]
RAW = {"Content-Type": "application/octet-stream"}
TAR = "application/x-tar"


def named(header: str) -> bytes:
    """The file name of a Content-Disposition, as a client understands it."""
    assert header.isascii()
    extended = re.search(r"filename\*=UTF-8''([^;]*)$", header)
    if extended:
        return unquote_to_bytes(extended[1])
    plain = re.fullmatch(r'attachment; filename="([^"\\]*)"', header)
    assert plain, header
    return plain[1].encode()


@pytest.mark.parametrize("name", NAMES)
async def test_every_route_takes_every_name(call: Call, work: Path, name: bytes) -> None:
    """Written in each form, described, listed, read under what the listing says, deleted."""
    target = "d/" + quote(name, safe="")
    form = FormData(default_to_multipart=True)
    form.add_field("file", b"form", filename="f")
    for body, content in (
        ({"json": {"content": "json"}}, b"json"),
        ({"data": form}, b"form"),
        ({"data": b"raw", "headers": RAW}, b"raw"),
    ):
        assert (await call("PUT", target, **body)).status == 200
        assert os.listdir(os.fsencode(work / "d")) == [name]
        assert (await call("GET", f"{target}?download=true")).body == content
    resumed = await call("PUT", f"{target}?offset=0", data=b"resumed", headers=RAW)
    assert (resumed.status, os.listdir(os.fsencode(work / "d"))) == (200, [name])

    (entry,) = (await call("GET", "d")).json()["files"]
    assert entry["name"] == name.decode("utf-8", "replace")
    listed = entry.get("rawPath", quote(entry["path"], safe=""))
    answer = await call("GET", f"{listed}?download=true")
    assert answer.body == b"resumed"
    shown = named(answer.headers["Content-Disposition"])
    assert shown.decode() == name.decode("utf-8", "replace")
    assert (await call("HEAD", target)).headers["ETag"] == resumed.headers["ETag"]

    assert (await call("DELETE", target, headers={"If-Match": '"x"'})).status == 412
    assert (await call("DELETE", target)).status == 200
    assert os.listdir(work / "d") == []


@pytest.mark.parametrize("name", NAMES)
async def test_trees_and_archives_take_every_name(call: Call, work: Path, name: bytes) -> None:
    """A directory of that name, and names within it, all the way there and back."""
    target = quote(name, safe="")
    tree = f"tree{work}/{target}"
    written = await call("PUT", tree, json={"files": {'deep/a\n"': "A"}})
    assert written.json()["subdirectories"][0]["name"] == "deep"
    archive = await call("GET", target, headers={"Accept": TAR})
    shown = named(archive.headers["Content-Disposition"]).decode()
    assert shown == name.decode("utf-8", "replace") + ".tar"
    assert (await call("DELETE", f"{tree}?recursive=true")).status == 200
    assert os.listdir(work) == []
    unpacked = await call("PUT", f"{target}/", data=archive.body, headers={"Content-Type": TAR})
    assert (unpacked.status, unpacked.json()["entries"]) == (200, 2)
    found = (await call("GET", f"tree{work}?recursive=true&content=true")).json()
    (file,) = found["files"]
    assert (file["name"], file["content"]) == ('a\n"', "A")
    listed = file.get("rawPath", quote(file["path"], safe=""))
    assert (await call("GET", f"{listed}?download=true")).body == b"A"


@pytest.mark.parametrize("name", NAMES)
async def test_multipart_sessions_take_every_name(call: Call, work: Path, name: bytes) -> None:
    """A session tells its file by bytes where text cannot."""
    route = "/filesystem-multipart"
    target = quote(name, safe="")
    begun = (await call("POST", f"{route}/initiate/d/{target}", data=b"{}")).json()
    raw = begun.get("rawPath", quote(begun["path"], safe=""))
    assert unquote_to_bytes(raw) == os.fsencode(work) + b"/d/" + name
    (listed,) = (await call("GET", route)).json()["uploads"]
    assert listed.get("rawPath") == begun.get("rawPath")
    form = FormData(default_to_multipart=True)
    form.add_field("file", b"part", filename="f")
    session = f"{route}/{begun['uploadId']}"
    part = (await call("PUT", f"{session}/part?partNumber=1", data=form)).json()
    assert (await call("POST", f"{session}/complete", json={"parts": [part]})).status == 200
    assert os.listdir(os.fsencode(work / "d")) == [name]


@pytest.mark.parametrize("name", NAMES)
async def test_copies_and_moves_take_every_name(call: Call, work: Path, name: bytes) -> None:
    """By what a listing tells, and their own answers can be used next."""
    await call("PUT", quote(name, safe=""), json={"content": "C"})
    (file,) = (await call("GET", "")).json()["files"]
    raw = quote(os.fsencode(work) + b"/d/" + name, safe="")
    body = {"source": file["path"], "rawSource": file.get("rawPath", "")}
    body |= {"destination": "shown", "rawDestination": raw}
    copy = (await call("POST", "/filesystem-copy", json=body)).json()
    assert unquote_to_bytes(copy.get("rawPath", quote(copy["path"]))) == unquote_to_bytes(raw)
    assert (os.listdir(os.fsencode(work / "d")), len(os.listdir(work))) == ([name], 2)
    body = {"source": copy["path"], "rawSource": copy.get("rawPath", ""), "destination": "e/f"}
    assert (await call("POST", "/filesystem-move", json=body)).status == 200
    assert os.listdir(work / "d") == []
    assert (work / "e" / "f").read_text() == "C"


@pytest.mark.parametrize("name", [b"n" * 256, b"\xe9" * 256])
async def test_a_name_that_is_too_long(call: Call, work: Path, name: bytes) -> None:
    """The kernel's reason, in every form of a write, and no trace of the attempt."""
    target = quote(name)
    form = FormData(default_to_multipart=True)
    form.add_field("file", b"x", filename="f")
    for body in ({"json": {"content": "x"}}, {"data": form}, {"data": b"x", "headers": RAW}):
        answer = await call("PUT", target, **body)
        assert (answer.status, str(answer.error)[-18:]) == (422, "file name too long")
    assert (await call("PUT", f"{target}?offset=0", data=b"x", headers=RAW)).status == 422
    assert os.listdir(work) == []
