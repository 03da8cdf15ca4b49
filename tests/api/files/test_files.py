"""Files over HTTP: reading, writing, deleting, and every refusal."""

import asyncio
import base64
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import FormData

from tests.api.files.conftest import AppClient, Call, everything

RAW = {"Content-Type": "application/octet-stream"}


def absolute(path: Path) -> str:
    return quote(str(path), safe="")


# --- reading -----------------------------------------------------------------------------------


async def test_read_file(call: Call, work: Path) -> None:
    """A file as JSON, with every documented key."""
    path = work / "a.txt"
    path.write_bytes(b"<b>&\xff\n")
    path.chmod(0o4711)
    os.utime(path, ns=(0, 1577934245_120000000))
    answer = await call("GET", "a.txt")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json() == {
        "path": "a.txt",
        "name": "a.txt",
        "permissions": "4711",
        "size": 6,
        "lastModified": "2020-01-02T03:04:05.12Z",
        "owner": path.owner(),
        "group": path.group(),
        "content": "<b>&\ufffd\n",
        "encoding": "utf-8",
    }
    encoded = (await call("GET", "a.txt?encoding=base64")).json()
    assert base64.b64decode(str(encoded["content"])) == path.read_bytes()
    assert encoded["encoding"] == "base64"


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (1, "1970-01-01T00:00:00.000000001Z"),
        (10**9, "1970-01-01T00:00:01Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ],
)
async def test_times(call: Call, work: Path, time_ns: int, text: str) -> None:
    """RFC 3339 in UTC, to the nanosecond, without trailing zeros."""
    (work / "a").touch()
    os.utime(work / "a", ns=(0, time_ns))
    assert (await call("GET", "a")).json()["lastModified"] == text


async def test_list_directory(call: Call, work: Path) -> None:
    """Both lists are there, sorted, with paths below what was asked for."""
    (work / "src" / "sub").mkdir(parents=True)
    (work / "src" / "b").write_text("xx")
    (work / "src" / ".a").touch()
    listing = (await call("GET", "src", headers={"Accept": "application/octet-stream"})).json()
    assert (listing["path"], listing["name"]) == ("src", "src")
    assert listing["subdirectories"] == [{"path": "src/sub", "name": "sub"}]
    names = [(entry["path"], entry["size"]) for entry in listing["files"]]
    assert names == [("src/.a", 0), ("src/b", 2)]
    for target in ("", ".", "./"):
        assert (await call("GET", target)).json()["path"] == str(work)
    assert (await call("GET", "src/sub/")).json() == {
        "path": "src/sub/",
        "name": "sub",
        "files": [],
        "subdirectories": [],
    }


@pytest.mark.timeout(20)
async def test_special_files_are_refused_without_waiting(call: Call, work: Path) -> None:
    """A fifo without a writer, a socket and a device are refused in every form."""
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(work / "socket"))
        for target in ("fifo", "socket", "%2Fdev%2Fzero"):
            for accept in ("application/json", "application/octet-stream"):
                answer = await call("GET", target, headers={"Accept": accept})
                assert answer.status == 422
                assert "is no regular file" in str(answer.error)
            assert (await call("HEAD", target)).status == 422


async def test_g20_what_is_reserved_does_not_exist(call: Call, work: Path) -> None:
    """A write under way is hidden, cannot be read and cannot be written."""
    (work / ".sandbox-api-1").write_text("x")
    assert (await call("GET", "")).json()["files"] == []
    for method in ("GET", "HEAD", "DELETE"):
        assert (await call(method, ".sandbox-api-1")).status == 404
    for data in (b'{"content":"y"}', b'{"isDirectory":true}', form(("file", "x", "x"))):
        answer = await call("PUT", ".sandbox-api-2", data=data)
        assert answer.status == 422
        assert "reserved" in str(answer.error)
    assert os.listdir(work) == [".sandbox-api-1"]


async def test_content_over_the_limit(app_client: AppClient, work: Path) -> None:
    """JSON has a limit that names the way around it; the bytes have none."""
    client = await app_client(max_content_bytes=10)
    (work / "a").write_text("x" * 11)
    async with client.get("/filesystem/a") as reply:
        assert reply.status == 413
        assert "application/octet-stream" in (await reply.json())["error"]
    async with client.get("/filesystem/a?download=true") as reply:
        assert await reply.read() == b"x" * 11
    for content, status in (("é" * 5, 200), ("é" * 6, 413)):
        async with client.put("/filesystem/b", json={"content": content}) as reply:
            assert reply.status == status
            assert status == 200 or "application/octet-stream" in (await reply.json())["error"]
    assert (work / "b").read_text() == "é" * 5
    data = "é" * 6
    async with client.put("/filesystem/b", data=data.encode(), headers=RAW) as reply:
        assert (reply.status, (work / "b").read_text()) == (200, data)


# --- writing -----------------------------------------------------------------------------------


async def test_write_and_overwrite(call: Call, work: Path) -> None:
    """Parents are made; the mode is exact, stays, and changes when it is asked for."""
    path = work / "new" / "deep" / "f.txt"
    answer = await call("PUT", "new/deep/f.txt", data=b'{"content":"hi","permissions":"0666"}')
    assert answer.json() == {
        "path": "new/deep/f.txt",
        "message": "File created/updated successfully",
    }
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("hi", 0o666)
    await call("PUT", "new/deep/f.txt", data=b'{"content":"\\u00e9"}')
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("é", 0o666)
    await call("PUT", "new/deep/f.txt?sync=true", data=b'{"permissions":"600"}')
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("", 0o600)


async def test_make_directory(call: Call, work: Path) -> None:
    """Every missing level has the mode; an existing directory keeps its own."""
    body = b'{"isDirectory":true,"permissions":"0700","content":"ignored"}'
    answer = await call("PUT", "a/b/", data=body)
    assert answer.json() == {"path": "a/b/", "message": "Directory created successfully"}
    body = b'{"isDirectory":true,"permissions":"0755"}'
    assert (await call("PUT", "a/b", data=body)).status == 200
    assert [stat.S_IMODE((work / name).stat().st_mode) for name in ("a", "a/b")] == [0o700, 0o700]


def form(*fields: tuple[str, str, str | None]) -> FormData:
    data = FormData(default_to_multipart=True)
    for name, value, filename in fields:
        data.add_field(name, value.encode() if filename else value, filename=filename)
    return data


@pytest.mark.parametrize("order", [1, -1])
async def test_upload_form(call: Call, work: Path, order: int) -> None:
    """Permissions count before and after the file; other fields and files do not."""
    fields = [
        ("permissions", " 0604 ", None),
        ("path", "elsewhere", None),
        ("file", "content", "any name"),
    ]
    answer = await call("PUT", "d/up.bin", data=form(*fields[::order], ("file", "2", "x")))
    assert answer.json() == {"path": "d/up.bin", "message": "Binary file uploaded successfully"}
    path = work / "d" / "up.bin"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("content", 0o604)
    await call("PUT", "d/up.bin", data=form(("permissions", "0777", None), ("file", "", "x")))
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("", 0o604)


BROKEN_FORM = {"Content-Type": "multipart/form-data; boundary=b"}
FILE_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'


@pytest.mark.parametrize(
    ("data", "headers", "status", "error"),
    [
        (form(("file", "inline", None)), {}, 400, "missing 'file' field in multipart form"),
        (form(("other", "x", "x")), {}, 400, "missing 'file' field in multipart form"),
        (
            form(("file", "x", "x"), ("permissions", "zz", None)),
            {},
            400,
            "invalid permissions format 'zz': ",
        ),
        (
            b"",
            {"Content-Type": "multipart/form-data"},
            400,
            "error reading multipart data: no multipart boundary param in Content-Type",
        ),
        (
            b"",
            {"Content-Type": "multipart/form-data; boundary=" + "b" * 201},
            400,
            "error reading multipart data: the boundary in Content-Type is over 200 characters",
        ),
        (b"", BROKEN_FORM, 400, "error reading multipart part: multipart: NextPart: EOF"),
        (b"no form", BROKEN_FORM, 400, "error reading multipart part: multipart: NextPart: EOF"),
        (FILE_PART + b"half", BROKEN_FORM, 422, "error writing binary file: unexpected EOF"),
    ],
)
async def test_g20_broken_form_writes_nothing(
    call: Call, work: Path, data: object, headers: dict[str, str], status: int, error: str
) -> None:
    """Whatever is wrong with a form, and wherever, what was there is still there."""
    (work / "a").write_text("old")
    answer = await call("PUT", "a", data=data, headers=headers)
    assert (answer.status, str(answer.error)[: len(error)]) == (status, error)
    assert (os.listdir(work), (work / "a").read_text()) == (["a"], "old")


async def test_g20_upload_that_is_cut_leaves_the_old_content(
    app_client: AppClient, work: Path, eventually: Callable[..., Awaitable[object]]
) -> None:
    """A client that vanishes in the middle of an upload has changed nothing."""
    client = await app_client()
    (work / "a").write_text("old")
    _, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(
        b"PUT /filesystem/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + FILE_PART + bytes(5_000_000)
    )
    await writer.drain()
    await eventually(lambda: len(os.listdir(work)) == 2)
    writer.transport.abort()
    await eventually(lambda: os.listdir(work) == ["a"])
    assert (work / "a").read_text() == "old"


# --- deleting ----------------------------------------------------------------------------------


async def test_delete(call: Call, work: Path) -> None:
    """A file, an empty directory, one that is not empty only when that is said exactly."""
    (work / "d").mkdir()
    (work / "d" / "f").touch()
    for target in ("d", "d?recursive=1", "d?recursive=TRUE"):
        answer = await call("DELETE", target)
        assert answer.status == 422
        assert answer.error == f"error deleting directory: remove {work}/d: directory not empty"
    answer = await call("DELETE", "d?recursive=true")
    assert answer.json() == {"path": "d", "message": "Directory deleted successfully"}
    (work / "f").touch()
    answer = await call("DELETE", "f")
    assert answer.json() == {"path": "f", "message": "File deleted successfully"}
    answer = await call("DELETE", "f")
    assert (answer.status, answer.error) == (404, "file or directory not found")


async def test_delete_removes_links_and_not_their_targets(call: Call, work: Path) -> None:
    """Also links that lead nowhere, and links to directories, recursively or not."""
    (work / "d").mkdir()
    (work / "d" / "f").touch()
    (work / "dead").symlink_to("nowhere")
    (work / "link").symlink_to("d")
    (work / "link2").symlink_to("d")
    for target in ("dead", "link", "link2?recursive=true"):
        assert (await call("DELETE", target)).status == 200
    assert os.listdir(work) == ["d"]
    assert os.listdir(work / "d") == ["f"]


async def test_g25_dangerous_deletions_need_force(call: Call, work: Path) -> None:
    """The working directory, HOME, what holds them, and links to them, in every way of writing."""
    (work / "link").symlink_to(work.parent)
    (work / "sub").mkdir()
    own = ["", ".", "sub%2F..", "link", "~", absolute(work), absolute(work.parent)]
    for target in own:
        for query in ("", "?recursive=true", "?recursive=true&force=1"):
            answer = await call("DELETE", target + query)
            assert answer.status == 422, target
            assert "?force=true" in str(answer.error)
    assert (await call("DELETE", "?recursive=true&force=true")).status == 200
    assert sorted(os.listdir(work.parent)) == ["home", "state"]
    assert (await call("PUT", "back", data=b'{"content":"x"}')).status == 200
    assert (work / "back").read_text() == "x"


@pytest.mark.parametrize("target", ["%2F", "%2Fetc", "%2Ftmp", "%2Fusr%2F", "%2Fetc%2F.", "%2Fvar"])
async def test_g25_system_directories_need_force(call: Call, target: str) -> None:
    """Not recursive here: a failure of this test must not take the machine with it."""
    answer = await call("DELETE", target)
    assert answer.status == 422
    assert "?force=true" in str(answer.error)


# --- refusals ----------------------------------------------------------------------------------

LONG = "n" * 256


@pytest.mark.parametrize(
    "row",
    [
        ("GET", "none", b"", 404, "stat {W}/none: no such file or directory"),
        ("GET", "none?download=true", b"", 404, "stat {W}/none: no such file or directory"),
        ("GET", "f/x", b"", 404, "stat {W}/f/x: not a directory"),
        ("GET", LONG, b"", 422, "stat {W}/" + LONG + ": file name too long"),
        ("GET", "loop", b"", 422, "stat {W}/loop: too many levels of symbolic links"),
        ("GET", "a%00b", b"", 400, "invalid path: invalid argument"),
        ("GET", "f?encoding=x", b"", 400, "invalid encoding 'x'"),
        ("GET", "%zz", b"", 400, ""),
        ("PUT", "a%00b", b"{}", 400, "invalid path: invalid argument"),
        ("PUT", "x", b"", 400, "invalid request body: EOF"),
        ("PUT", "x", b'{"content":', 400, "invalid request body: unexpected EOF"),
        ("PUT", "x", b"{not json", 400, "invalid request body: "),
        ("PUT", "x", b'{"content":1}', 400, "invalid request body: cannot unmarshal number"),
        ("PUT", "x", b'{"permissions":644}', 400, "invalid request body: cannot unmarshal number"),
        ("PUT", "x", b"[]", 400, "invalid request body: cannot unmarshal array"),
        ("PUT", "x", b'{"permissions":"999"}', 400, "invalid permissions format '999': "),
        ("PUT", "d", b"{}", 422, "error writing file: open {W}/d: is a directory"),
        ("PUT", "", b"{}", 422, "error writing file: open {W}: is a directory"),
        ("PUT", "f/x", b"{}", 422, "error writing file: mkdir {W}/f: not a directory"),
        ("PUT", LONG, b"{}", 422, "error writing file: open {W}/" + LONG + ": file name too long"),
        (
            "PUT",
            "f",
            b'{"isDirectory":true}',
            422,
            "error creating directory: mkdir {W}/f: not a directory",
        ),
        (
            "PUT",
            LONG,
            b'{"isDirectory":true}',
            422,
            "error creating directory: mkdir {W}/" + LONG + ": file name too long",
        ),
        ("DELETE", "none", b"", 404, "file or directory not found"),
        ("DELETE", "f/x", b"", 422, "stat {W}/f/x: not a directory"),
        ("DELETE", "a%00b", b"", 400, "invalid path: invalid argument"),
        ("DELETE", "d", b"", 422, "error deleting directory: remove {W}/d: directory not empty"),
        ("DELETE", "%2Fproc%2Fself%2Fstatus", b"", 422, "error deleting file: remove /proc/self"),
    ],
)
async def test_refusals(call: Call, work: Path, row: tuple[str, str, bytes, int, str]) -> None:
    """Each row of the specification's tables: status, stable text, and nothing changed."""
    method, target, body, status, error = row
    (work / "d" / "e").mkdir(parents=True)
    (work / "f").write_text("old")
    (work / "loop").symlink_to("loop")
    before = everything(work)
    answer = await call(method, target, data=body)
    expected = error.replace("{W}", str(work))
    assert (answer.status, str(answer.error)[: len(expected)]) == (status, expected)
    assert everything(work) == before
    assert (work / "f").read_text() == "old"


async def test_no_home(app_client: AppClient) -> None:
    """`~` without HOME says so."""
    client = await app_client(home="")
    async with client.get("/filesystem/~/x") as reply:
        assert reply.status == 400
        assert (await reply.json())["error"].startswith("home directory not found")
