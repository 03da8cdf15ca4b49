"""Files as their owner gives them out: on threads, as the workload user, and bounded."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.directories import Directory
from sandbox_api.core.files import SMALL_BYTES, FileContent, Files
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.local import LocalDirectories
from sandbox_api.core.metadata import OwnerNames
from sandbox_api.core.paths import PathResolver
from sandbox_api.errors import FailedError, ForbiddenError, NotFoundError, TooLargeError


@pytest.fixture
async def threads() -> AsyncIterator[FileThreads]:
    """The daemon's own threads."""
    owner = FileThreads(None)
    yield owner
    owner.close()


@pytest.fixture
def files(threads: FileThreads, tmp_path: Path) -> Files:
    """Files below a fresh working directory."""
    return Files(threads, PathResolver(str(tmp_path), str(tmp_path)), max_content_bytes=100_000)


async def content(files: Files, path: str) -> str:
    found = await files.read(files.resolve(path))
    assert isinstance(found, FileContent)
    return found.content


async def test_read_is_the_same_on_the_loop_and_on_threads(files: Files, tmp_path: Path) -> None:
    """The second read of a directory's file happens on the loop; nobody can tell."""
    (tmp_path / "a").write_bytes(b"x\xff")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link", "."):
        location = files.resolve(name)
        first = await files.read(location)
        assert await files.read(location) == first
    assert await content(files, "a") == "x\ufffd"


async def test_read_sees_changes_at_once(files: Files, tmp_path: Path) -> None:
    """What is remembered is where a directory lies, never what is in it."""
    path = tmp_path / "a"
    path.write_text("1")
    assert await content(files, "a") == "1"
    path.write_text("22")
    assert await content(files, "a") == "22"
    path.write_bytes(b"3" * (SMALL_BYTES + 1))
    assert len(await content(files, "a")) == SMALL_BYTES + 1
    path.unlink()
    path.mkdir()
    assert isinstance(await files.read(files.resolve("a")), Directory)
    path.rmdir()
    with pytest.raises(NotFoundError):
        await files.read(files.resolve("a"))


async def test_read_has_a_limit(files: Files, tmp_path: Path) -> None:
    """The error says what to do; a pseudo file that does not tell its size is cut off too."""
    (tmp_path / "big").write_bytes(bytes(100_001))
    with pytest.raises(TooLargeError, match="application/octet-stream"):
        await files.read(files.resolve("big"))
    small = Files(FileThreads(None), files.paths, max_content_bytes=10)
    with pytest.raises(TooLargeError):
        await small.read(small.resolve("/proc/self/status"))


async def test_base64(files: Files, tmp_path: Path) -> None:
    """Bytes that are no text survive."""
    (tmp_path / "a").write_bytes(b"\x00\xff")
    found = await files.read(files.resolve("a"), "base64")
    assert isinstance(found, FileContent)
    assert (found.content, found.encoding) == ("AP8=", "base64")


async def test_pseudo_files_have_their_content(files: Files) -> None:
    """/proc says that its files are empty; they are not."""
    assert "Pid:" in await content(files, "/proc/self/status")
    opened = await files.open(files.resolve("/proc/self/status"))
    assert opened is not None
    opened.file.close()
    assert opened.content is not None
    assert b"Pid:" in opened.content


async def test_g29_nothing_is_read_that_the_user_may_not(
    tmp_path: Path, nobody_threads: FileThreads
) -> None:
    """With a workload user, no read, listing, write or deletion is done as root."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for parent in (tmp_path, *tmp_path.parents):
        parent.chmod(parent.stat().st_mode | 0o001)
    files = Files(nobody_threads, PathResolver(str(tmp_path), ""))
    at = files.resolve
    calls = {
        f"error reading file: open {secret}": files.read(at("secret")),
        f"error opening file: open {secret}": files.open(at("secret")),
        f"error listing directory: open {closed}": files.list(at("closed")),
        f"error writing file: open {secret}": files.write(at("secret"), b"y"),
        f"error creating directory: mkdir {tmp_path}/d": files.make_directory(at("d")),
        f"error deleting file: remove {secret}": files.delete(at("secret")),
        f"stat {closed}/x": files.read(at("closed/x")),
    }
    for text, call in calls.items():
        with pytest.raises((FailedError, ForbiddenError)) as caught:
            await call
        assert caught.value.message == f"{text}: permission denied"
    assert secret.read_text() == "x"


async def test_g20_cancelled_writer_leaves_nothing(files: Files, tmp_path: Path) -> None:
    """A client that leaves in the middle of its upload has written nothing."""
    (tmp_path / "a").write_text("old")
    started = asyncio.Event()

    async def upload() -> None:
        async with files.writer(files.resolve("a")) as writer:
            await writer.write(b"x" * 1_000_000)
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(upload())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


async def test_open_that_nobody_waits_for_is_closed(
    files: Files, tmp_path: Path, eventually: Callable[..., Awaitable[object]]
) -> None:
    """A client that leaves while its file is being opened costs no descriptor."""
    (tmp_path / "a").write_text("x")
    await files.read(files.resolve("a"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        task = asyncio.create_task(files.open(files.resolve("a")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    opened = await files.open(files.resolve("a"))
    assert opened is not None
    opened.file.close()
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_owner_names() -> None:
    """Names where there are some, else numbers; an account that appears is seen."""
    names = OwnerNames()
    names.refresh()
    assert names.user(0) == "root"
    assert names.user(3_999_999_999) == "3999999999"
    assert names.group(3_999_999_999) == "3999999999"


def test_network_mounts_are_not_local() -> None:
    """/proc is no local disk, and what nobody asked about is not known."""
    local = LocalDirectories()
    assert not local.knows("/usr")
    local.learn("/proc")
    local.learn("/nowhere")
    assert not local.knows("/proc")
    assert not local.knows("/nowhere")


def test_local_directories_are_known_for_a_moment(tmp_path: Path) -> None:
    """Something slow may be mounted there at any time."""
    local, forgetful = LocalDirectories(), LocalDirectories(memory_s=0.0)
    for owner in (local, forgetful):
        owner.learn(str(tmp_path))
    if not local.knows(str(tmp_path)):
        pytest.skip("the temporary directory is not on a local file system")
    assert not forgetful.knows(str(tmp_path))
