"""Bytes of files: HEAD, ranges, conditions, names, and any size in constant memory."""

import asyncio
import hashlib
import http.client
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.api.download import (
    CONTENT_TYPES,
    content_disposition,
    content_type,
    parse_range,
)
from sandbox_api.errors import RangeError
from tests.core.conftest import MADE_UP

AppClient = Callable[..., Awaitable[TestClient]]
Get = Callable[..., Awaitable[SimpleNamespace]]

CONTENT = b"0123456789"
MODIFIED = 1577934245
MODIFIED_TEXT = "Thu, 02 Jan 2020 03:04:05 GMT"
MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path, app_client: AppClient) -> Path:
    """A file of ten bytes in the working directory, `d.txt`."""
    path = tmp_path / "work" / "d.txt"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(0, MODIFIED * 10**9 + 5))
    return path


def rewrite(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def make_sparse(file: Path) -> int:
    with file.open("wb") as sparse:
        return sparse.truncate(64 * MIB)


@pytest.fixture
async def get(app_client: AppClient, file: Path) -> Get:
    """`await get(Range="bytes=0-1")`: the file's bytes, with these headers."""
    client = await app_client()

    async def ask(method: str = "GET", name: str = "d.txt", **headers: str) -> SimpleNamespace:
        sent = {"Accept": "application/octet-stream"} | {
            header.replace("_", "-"): value for header, value in headers.items()
        }
        async with client.request(method, f"/filesystem/{name}", headers=sent) as reply:
            return SimpleNamespace(
                status=reply.status, headers=reply.headers, body=await reply.read()
            )

    return ask


async def test_whole_file(get: Get) -> None:
    """The bytes, with everything that describes them."""
    reply = await get()
    assert (reply.status, reply.body) == (200, CONTENT)
    expected = {
        "Content-Type": "text/plain",
        "Content-Length": "10",
        "Content-Disposition": 'attachment; filename="d.txt"',
        "Last-Modified": MODIFIED_TEXT,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache, no-store, must-revalidate",
    }
    assert expected.items() <= dict(reply.headers).items()
    assert re.fullmatch('"[0-9a-f-]+"', reply.headers["ETag"])


@pytest.mark.parametrize(
    ("accept", "download", "is_json"),
    [
        (None, "", True),
        ("", "", True),
        ("*/*", "", True),
        ("text/html, */*;q=0.8", "", True),
        ("application/json", "", True),
        ("text/plain", "", False),
        ("application/*", "", False),
        ("application/json, application/octet-stream", "", False),
        ("application/json", "?download=true", False),
        ("application/json", "?download=1", True),
        ("application/json", "?download=TRUE", True),
    ],
)
async def test_who_gets_bytes(
    app_client: AppClient, file: Path, accept: str | None, download: str, is_json: bool
) -> None:
    """Accept and `download=true` choose, by the reference's substring tests."""
    client = await app_client()
    headers = {} if accept is None else {"Accept": accept}
    skip = ["Accept"] if accept is None else None
    async with client.get(
        f"/filesystem/d.txt{download}", headers=headers, skip_auto_headers=skip
    ) as reply:
        is_bytes = await reply.read() == CONTENT
        assert is_bytes is not is_json


async def test_g26_head_describes_the_bytes(get: Get, file: Path) -> None:
    """HEAD of a file is its GET without a body; ranges do not apply."""
    reply, head = await get(), await get("HEAD")
    assert (head.status, head.body) == (200, b"")
    unstable = {"Date"}
    assert {k: v for k, v in head.headers.items() if k not in unstable} == {
        k: v for k, v in reply.headers.items() if k not in unstable
    }
    ranged = await get("HEAD", Range="bytes=0-1")
    assert (ranged.status, ranged.headers["Content-Length"]) == (200, "10")
    known = await get("HEAD", If_None_Match=head.headers["ETag"])
    assert known.status == 304
    rewrite(file, b"")
    assert (await get("HEAD")).headers["Content-Length"] == "0"


async def test_g26_head_of_what_is_no_file(get: Get) -> None:
    """A directory is there and has no length; what is missing is missing."""
    for name in ("", "."):
        head = await get("HEAD", name)
        assert (head.status, head.body) == (200, b"")
        assert "Content-Length" not in head.headers
    missing = await get("HEAD", "none")
    assert (missing.status, missing.body) == (404, b"")
    assert (await get("HEAD", "d.txt/x")).status == 404


@pytest.mark.parametrize(
    ("asked", "content", "span"),
    [
        ("bytes=2-4", b"234", "2-4"),
        ("bytes=5-", b"56789", "5-9"),
        ("bytes=-3", b"789", "7-9"),
        ("bytes=-30", CONTENT, "0-9"),
        ("bytes=8-99", b"89", "8-9"),
        ("bytes=0-0", b"0", "0-0"),
    ],
)
async def test_one_range(get: Get, asked: str, content: bytes, span: str) -> None:
    """206 with the piece and where it lies."""
    reply = await get(Range=asked)
    assert (reply.status, reply.body) == (206, content)
    assert reply.headers["Content-Range"] == f"bytes {span}/10"
    assert reply.headers["Content-Length"] == str(len(content))


async def test_several_ranges_and_empty_files(get: Get, file: Path) -> None:
    """The whole file is always a right answer."""
    reply = await get(Range="bytes=0-1,3-4")
    assert (reply.status, reply.body) == (200, CONTENT)
    rewrite(file, b"")
    reply = await get(Range="bytes=5-6")
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("bytes=10-", "invalid range: failed to overlap"),
        ("bytes=50-60", "invalid range: failed to overlap"),
        ("bytes=-0", "invalid range: failed to overlap"),
        ("bytes=4-2", "invalid range"),
        ("bytes=-", "invalid range"),
        ("bytes=a-b", "invalid range"),
        ("lines=1-2", "invalid range"),
        ("bytes=" + "9" * 5000 + "-", "invalid range"),
    ],
)
async def test_refused_ranges(get: Get, asked: str, error: str) -> None:
    """416 in JSON, with the length that the file has."""
    reply = await get(Range=asked)
    assert reply.status == 416
    assert reply.headers["Content-Range"] == "bytes */10"
    assert reply.headers["Content-Type"].startswith("application/json")
    assert f'{{"error":"{error}'.encode() in reply.body


@given(st.binary(min_size=1, max_size=20), st.integers(0, 30), st.integers(0, 30))
def test_ranges_against_a_model(data: bytes, first: int, last: int) -> None:
    """First to last, to the end, the last so many: what slices of Python are; else a refusal."""
    for text, expected in (
        (f"{first}-{last}", data[first : last + 1]),
        (f"{first}-", data[first:]),
        (f"-{last}", data[-last:] if last else b""),
    ):
        if expected:
            found = parse_range(f"bytes={text}", len(data))
            assert data[found.start : found.stop] == expected
        else:
            with pytest.raises(RangeError):
                parse_range(f"bytes={text}", len(data))


@given(st.text("bytes=-0123456789, ", max_size=20) | st.text(max_size=20), st.integers(1, 30))
def test_any_range_is_inside_or_refused(text: str, size: int) -> None:
    """No header asks for more than there is."""
    try:
        wanted = parse_range(text, size)
    except RangeError:
        return
    assert 0 <= wanted.start < wanted.stop <= size


async def test_conditions(get: Get, file: Path) -> None:
    """304 for what the client has, 412 for what it no longer is; tags go before dates."""
    etag = (await get()).headers["ETag"]
    earlier, later = (formatdate(MODIFIED + d, usegmt=True) for d in (-1, 1))
    cases = [
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": f'"x", W/{etag}'}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"x"', "If_Modified_Since": later}, 200),
        ({"If_Modified_Since": MODIFIED_TEXT}, 304),
        ({"If_Modified_Since": earlier}, 200),
        ({"If_Modified_Since": "nonsense"}, 200),
        ({"If_Match": etag}, 200),
        ({"If_Match": "*"}, 200),
        ({"If_Match": f"W/{etag}"}, 412),
        ({"If_Match": '"x"'}, 412),
        ({"If_Match": etag, "If_Unmodified_Since": earlier}, 200),
        ({"If_Unmodified_Since": earlier}, 412),
        ({"If_Unmodified_Since": MODIFIED_TEXT}, 200),
        ({"Range": "bytes=0-1", "If_Range": etag}, 206),
        ({"Range": "bytes=0-1", "If_Range": MODIFIED_TEXT}, 206),
        ({"Range": "bytes=0-1", "If_Range": '"x"'}, 200),
        ({"Range": "bytes=0-1", "If_Range": f"W/{etag}"}, 200),
        ({"Range": "bytes=0-1", "If_Range": later}, 200),
    ]
    for headers, status in cases:
        reply = await get(**headers)
        assert reply.status == status, headers
        if status == 304:
            assert (reply.headers["ETag"], reply.body) == (etag, b"")
    rewrite(file, CONTENT[::-1])
    os.utime(file, ns=(0, MODIFIED * 10**9 + 6))
    assert (await get(If_Match=etag)).status == 412


def test_content_types() -> None:
    """By the last extension, in its own case, without a charset."""
    for extension, kind in CONTENT_TYPES.items():
        assert content_type(f"a.b{extension}") == kind
        assert content_type(extension) == kind
    for name in ("a", "a.HTML", "a.txt.", "txt", "a.unknown"):
        assert content_type(name) == "application/octet-stream"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a b;c.txt", 'attachment; filename="a b;c.txt"'),
        ('we"ird', "attachment; filename=\"we_ird\"; filename*=UTF-8''we%22ird"),
        ("é", "attachment; filename=\"_\"; filename*=UTF-8''%C3%A9"),
        (
            "a\r\nSet-Cookie: x",
            "attachment; filename=\"a__Set-Cookie: x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x",
        ),
        ("\udcff", "attachment; filename=\"_\"; filename*=UTF-8''%EF%BF%BD"),
    ],
)
def test_content_disposition(name: str, header: str) -> None:
    """No name breaks out of its quotes or of its header."""
    assert content_disposition(name) == header


@pytest.mark.parametrize(("path", "content"), MADE_UP)
async def test_what_the_kernel_makes_up(get: Get, path: str, content: bytes) -> None:
    """It is sent as it reads, whatever size it tells, and nothing says that it will stay so."""
    reply = await get(name=quote(path, safe=""))
    assert (reply.status, reply.body) == (200, content)
    assert not {"ETag", "Last-Modified", "Accept-Ranges"} & set(reply.headers)


async def test_deleted_file_is_sent_to_its_end(app_client: AppClient, file: Path) -> None:
    """What is being sent does not depend on its name."""
    client = await app_client()
    size = make_sparse(file)
    async with client.get("/filesystem/d.txt?download=true") as reply:
        os.unlink(file)
        received = 0
        async for piece in reply.content.iter_any():
            received += len(piece)
    assert received == size


async def test_file_that_shrinks_is_cut_off(app_client: AppClient, file: Path) -> None:
    """A client must not take less than was announced for the whole."""
    client = await app_client()
    size = make_sparse(file)
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(b"GET /filesystem/d.txt?download=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    os.truncate(file, MIB)
    received = 0
    with suppress(ConnectionResetError):
        while piece := await reader.read(MIB):
            received += len(piece)
    assert received < size
    writer.close()


# --- memory ------------------------------------------------------------------------------------


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) / 1024


def upload(port: int, path: Path, pieces: Iterator[bytes], size: int) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    tail = b"\r\n--b--\r\n"

    def body() -> Iterator[bytes]:
        yield head
        yield from pieces
        yield tail

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Length": str(len(head) + size + len(tail)),
    }
    connection.request("PUT", "/filesystem/" + quote(str(path), safe=""), body(), headers)
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    connection.close()


def download(port: int, path: Path) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    target = "/filesystem/" + quote(str(path), safe="") + "?download=true"
    connection.request("GET", target)
    reply = connection.getresponse()
    digest = hashlib.blake2b()
    while piece := reply.read(4 * MIB):
        digest.update(piece)
    connection.close()
    return digest.hexdigest()


@pytest.mark.parametrize(
    "size_mib",
    [256, pytest.param(10_240, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_g21_any_size_in_constant_memory(
    start_daemon: Callable[..., SimpleNamespace], tmp_path: Path, size_mib: int
) -> None:
    """Up and down, byte-exact, in the memory of a few pieces."""
    daemon = start_daemon()
    path = tmp_path / "big"
    upload(daemon.port, tmp_path / "small", iter([b"x"]), 1)
    before = peak_mib(daemon.process.pid)
    block = os.urandom(MIB)
    digest = hashlib.blake2b()

    def pieces() -> Iterator[bytes]:
        for number in range(size_mib):
            piece = number.to_bytes(8, "big") + block[8:]
            digest.update(piece)
            yield piece

    upload(daemon.port, path, pieces(), size_mib * MIB)
    assert path.stat().st_size == size_mib * MIB
    assert download(daemon.port, path) == digest.hexdigest()
    path.unlink()
    assert peak_mib(daemon.process.pid) - before < 64
