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
