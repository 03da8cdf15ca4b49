"""Directories as tar streams over HTTP."""

import asyncio
import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import ClientError

from tests.api.files.conftest import AppClient, Call, everything

TAR = {"Content-Type": "application/x-tar"}


def pack(**files: bytes) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isreg()}
    return {name: file.read() for name, file in files.items() if file}


@pytest.mark.parametrize("accept", ["application/x-tar", "application/x-tar, */*"])
async def test_download(call: Call, work: Path, accept: str) -> None:
    """A directory comes as an archive where that is asked for, a file as its bytes."""
    (work / "dir" / "sub").mkdir(parents=True)
    (work / "dir" / "sub" / "f").write_bytes(b"F" * 1_000_000)
    headers = {"Accept": accept, "Accept-Encoding": "identity"}
    answer = await call("GET", "dir", headers=headers)
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="dir.tar"'
    assert contents(answer.body) == {"sub/f": b"F" * 1_000_000}
    assert (await call("GET", "dir/sub/f", headers=headers)).body == b"F" * 1_000_000
    head = await call("HEAD", "dir", headers=headers)
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "application/x-tar", b"")
    assert (await call("GET", "nope", headers=headers)).status == 404


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br;q=1.0, gzip;q=0.8", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("deflate", False),
        ("", False),
    ],
)
async def test_download_compressed(
    app_client: AppClient, work: Path, accepted: str, *, compressed: bool
) -> None:
    """By Accept-Encoding, and only where it names gzip."""
    (work / "f").write_bytes(b"F" * 100_000)
    client = await app_client()
    headers = {"Accept": "application/x-tar", "Accept-Encoding": accepted}
    async with client.get("/filesystem/", headers=headers, auto_decompress=False) as reply:
        data = await reply.read()
        assert reply.headers.get("Content-Encoding") == ("gzip" if compressed else None)
    assert contents(gzip.decompress(data) if compressed else data) == {"f": b"F" * 100_000}


async def test_upload(call: Call, work: Path) -> None:
    """Into a directory that exists, or one that is made since its path ends in a slash."""
    data = pack(a=b"A", b=b"B" * 100_000)
    answer = await call("PUT", "new/dir/", data=data, headers=TAR)
    assert answer.json() == {
        "path": "new/dir/",
        "message": "Archive unpacked successfully",
        "entries": 2,
        "bytes": 100_001,
    }
    zipped = {**TAR, "Content-Encoding": "gzip"}
    assert (await call("PUT", "new", data=gzip.compress(data), headers=zipped)).status == 200
    assert sorted(os.listdir(work / "new")) == ["a", "b", "dir"]
    assert (work / "new" / "b").read_bytes() == b"B" * 100_000


@pytest.mark.parametrize(
    ("target", "headers", "status", "text"),
    [
        ("new", {}, 422, "end the path with /"),
        ("file", {}, 422, "is no directory"),
        (".sandbox-api-1/", {}, 422, "reserved"),
        ("", {"Content-Encoding": "br"}, 400, "Content-Encoding 'br'"),
        ("", {"Content-Encoding": "gzip"}, 422, "no gzip stream"),
    ],
)
async def test_bad_uploads(
    call: Call, work: Path, target: str, headers: dict[str, str], status: int, text: str
) -> None:
    """Each is refused with what to do, before anything is written."""
    (work / "file").write_text("old")
    answer = await call("PUT", target, data=pack(a=b""), headers={**TAR, **headers})
    assert (answer.status, text in str(answer.error)) == (status, True)
    assert os.listdir(work) == ["file"]


async def test_upload_under_a_condition(call: Call, work: Path) -> None:
    """A directory has no ETag: it is there or it is not, and nothing is written in its stead."""
    (work / "there").mkdir()
    data = pack(a=b"A")
    for target, header, value, status in (
        ("there", "If-Match", '"1-2-3"', 412),
        ("there/", "If-None-Match", "*", 412),
        ("new/", "If-Match", "*", 412),
        ("there", "If-Match", "nonsense", 400),
        ("there", "If-Match", "*", 200),
        ("new/", "If-None-Match", "*", 200),
        ("new/", "If-None-Match", '"1-2-3"', 200),
    ):
        before = everything(work)
        answer = await call("PUT", target, data=data, headers={**TAR, header: value})
        assert answer.status == status, (target, header, value)
        assert (everything(work) == before) == (status != 200 or value == '"1-2-3"')
    answer = await call("PUT", "new", data=data, headers={**TAR, "If-Match": '"1-2-3"'})
    assert "it exists and is no regular file, so it has no ETag" in str(answer.error)


async def test_g25_links_that_lead_out_are_kept_and_not_used(call: Call, work: Path) -> None:
    """As in a virtual environment; what would be written through one is refused."""
    (work / "outside").mkdir()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(work / "outside")
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("link/x"))
    answer = await call("PUT", "d/", data=archive.getvalue(), headers=TAR)
    assert (answer.status, answer.json()["entries"]) == (422, 1)
    assert "link/x: it leads out of the directory" in str(answer.error)
    assert os.readlink(work / "d" / "link") == str(work / "outside")
    assert os.listdir(work / "outside") == []


async def test_g25_upload_that_leads_out(call: Call, work: Path) -> None:
    """The error says how much is there."""
    answer = await call("PUT", "d/", data=pack(**{"a": b"", "../x": b""}), headers=TAR)
    assert answer.status == 422
    assert answer.json() == {
        "error": "error unpacking archive: ../x: it leads out of the directory",
        "entries": 1,
    }
    assert os.listdir(work) == ["d"]


async def test_g20_aborted_upload(
    app_client: AppClient, work: Path, eventually: Callable[..., Awaitable[object]]
) -> None:
    """A client that goes away in the middle leaves whole files, and nothing of ours."""
    client = await app_client()
    (work / "b").write_text("old")
    data = pack(a=b"A" * 1000, b=b"B" * 500_000)
    gone = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield data[:300_000]
        await gone.wait()

    sending = asyncio.ensure_future(client.put("/filesystem/", data=half(), headers=TAR))
    assert await eventually(lambda: len(os.listdir(work)) == 3)  # a, b, and what is not finished
    sending.cancel()
    with pytest.raises((asyncio.CancelledError, ClientError)):
        await sending
    assert await eventually(lambda: sorted(os.listdir(work)) == ["a", "b"])
    assert (work / "a").read_bytes() == b"A" * 1000
    assert (work / "b").read_text() == "old"


async def test_download_of_a_client_that_left(
    app_client: AppClient, work: Path, eventually: Callable[..., Awaitable[object]]
) -> None:
    """It costs no descriptor any more."""
    with (work / "big").open("wb") as file:
        file.truncate(1 << 30)
    client = await app_client()
    async with client.get("/health"):
        pass

    def is_open() -> bool:
        links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return any(
            os.readlink(link) == str(work / "big") for link in links if os.path.lexists(link)
        )

    async with client.get("/filesystem/", headers={"Accept": "application/x-tar"}) as reply:
        await reply.content.read(100_000)
        assert is_open()
        reply.close()
    assert await eventually(lambda: not is_open())


@pytest.mark.slow
def test_g21_archives_in_constant_memory(
    start_daemon: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    """Gigabytes go down, plain and compressed, and up, in memory of some pieces."""
    (tmp_path / "src").mkdir()
    with (tmp_path / "src" / "big").open("wb") as file:
        file.truncate(2 << 30)
    daemon = start_daemon()
    url = f"http://127.0.0.1:{daemon.port}/filesystem/{tmp_path}"
    download = ["curl", "-fsS", "-H", "Accept: application/x-tar", f"{url}/src"]
    before = memory_kib(daemon.process.pid)
    subprocess.run([*download, "-o", os.devnull], check=True)
    compressed = tmp_path / "a.tgz"
    subprocess.run([*download, "-H", "Accept-Encoding: gzip", "-o", compressed], check=True)
    assert compressed.stat().st_size < 20 << 20
    upload = ["-T", "-", "-H", "Content-Type: application/x-tar", "-H", "Content-Encoding: gzip"]
    with compressed.open("rb") as body:
        subprocess.run(["curl", "-fsS", *upload, f"{url}/dst/"], stdin=body, check=True)
    assert (tmp_path / "dst" / "big").stat().st_size == 2 << 30
    (tmp_path / "dst" / "big").unlink()
    assert memory_kib(daemon.process.pid) - before < 64 << 10


def memory_kib(pid: int) -> int:
    """The most memory that a process ever held."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["VmHWM"].split()[0])
