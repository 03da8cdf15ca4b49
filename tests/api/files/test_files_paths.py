"""The paths of files in URLs: every way to write them, and every name."""

import os
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sandbox_api.api.wire import client_path
from tests.api.files.conftest import Call


def bytes_path(directory: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(directory) + b"/" + name))


def path_of(raw_path: str) -> str:
    request = SimpleNamespace(rel_url=URL.build(path=raw_path, encoded=True))
    return client_path(request, "/filesystem")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/src/a", "src/a"),
        ("//tmp/a", "/tmp/a"),
        ("/%2Ftmp/a", "/tmp/a"),
        ("/%2ftmp%2fa", "/tmp/a"),
        ("%2Ftmp/a", "/tmp/a"),
        ("/", ""),
        ("//", "/"),
        ("/%2F", "/"),
        ("/src%2Fa", "src/a"),
        ("/a%252Fb", "a%2Fb"),
        ("/a+b%20c%3F", "a+b c?"),
        ("/%C3%A9/é", "é/é"),
        ("/%FF", "\udcff"),
        ("/..%2F../x", "../../x"),
    ],
)
def test_client_path(raw: str, path: str) -> None:
    """Only a slash at the start makes a path absolute; the rest is decoded once, byte by byte."""
    assert path_of("/filesystem" + raw) == path


@given(st.binary(max_size=30), st.sets(st.integers(0, 255)), st.booleans())
def test_any_bytes_reach_the_file_that_they_name(
    name: bytes, escaped: set[int], absolute: bool
) -> None:
    """Whichever bytes a client escapes, the path is the one that it meant."""
    always = {*b"%/?#", *range(0x21), 0x7F}
    encoded = "".join(
        f"%{byte:02X}" if byte in escaped or byte in always else chr(byte) if byte < 0x80 else ""
        for byte in name
    )
    kept = bytes(byte for byte in name if byte < 0x80 or byte in escaped)
    path = path_of(f"/filesystem/{'%2F' * absolute}x{encoded}")
    assert os.fsencode(path) == b"/" * absolute + b"x" + kept


@pytest.mark.parametrize("name", [b"tree-x", b"treetop", b"\xff", b"a\nb", b"%2F", b"a b", b"~x"])
async def test_names_that_others_get_wrong(call: Call, work: Path, name: bytes) -> None:
    """They are ordinary files in the working directory."""
    target = quote(name, safe="")
    assert (await call("PUT", target, data=b'{"content":"x"}')).status == 200
    assert os.listdir(os.fsencode(work)) == [name]
    assert (await call("GET", target)).json()["content"] == "x"
    assert (await call("DELETE", target)).status == 200


async def test_listed_names_can_be_asked_for(call: Call, work: Path) -> None:
    """A name that is not UTF-8 comes with the path to ask for; others come without."""
    odd_file, odd_directory = bytes_path(work, b"\xff"), bytes_path(work, b"\xfe")
    odd_file.write_text("x")
    (work / "plain").touch()
    odd_directory.mkdir()
    listing: dict[str, list[dict[str, str]]] = (await call("GET", "")).json()
    plain, odd = listing["files"]
    assert "rawPath" not in plain
    assert odd["name"] == "\ufffd"
    assert (await call("GET", odd["rawPath"])).json()["content"] == "x"
    (directory,) = listing["subdirectories"]
    assert (await call("DELETE", directory["rawPath"])).status == 200
