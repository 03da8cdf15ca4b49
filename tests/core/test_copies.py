"""Copies and moves: placed as cp and mv place them, whole, and never over what must stay."""

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox_api.core.atomic import PATH_LOCKS, write_file
from sandbox_api.core.conditions import Condition, file_version
from sandbox_api.core.copies import Copies
from sandbox_api.core.copying import Copying
from sandbox_api.core.entries import rename_new
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import PathResolver
from sandbox_api.errors import (
    ConflictError,
    FailedError,
    NotFoundError,
    PreconditionError,
    SandboxError,
    UnavailableError,
)
from tests.core.conftest import MADE_UP, let_others_in

TIME = (1_000_000_000_000_000_007, 981_173_106_123_456_789)
TAKEN = {"code": "FILE_ALREADY_EXISTS"}


@pytest.fixture
async def copies(tmp_path: Path) -> AsyncIterator[Copies]:
    """Copies below a fresh working directory."""
    threads = FileThreads(None)
    yield Copies(threads, PathResolver(str(tmp_path), str(tmp_path / "home")))
    threads.close()


@pytest.fixture
def immutable_file(tmp_path: Path) -> Iterator[Path]:
    """A file that not even root can remove."""
    path = tmp_path / "immutable"
    path.write_text("I")
    done = subprocess.run(["chattr", "+i", path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("files cannot be made immutable here")
    yield path
    subprocess.run(["chattr", "-i", path], check=True)


def make_tree(root: Path) -> None:
    """A directory with everything that can be kept."""
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "script").write_text("#!")
    (root / "script").chmod(0o751)
    (root / "sub" / "link").symlink_to("../script")
    (root / "sub" / "dangling").symlink_to("/nowhere")
    os.link(root / "script", root / "sub" / "other name")
    (root / "sub" / os.fsdecode(b"\xff\n")).write_bytes(bytes(range(256)))
    (root / "sub").chmod(0o2750)
    with (root / "holes").open("wb") as file:
        file.seek(10 << 20)
        file.write(b"x")
        file.truncate(30 << 20)
    for path in (root / "script", root / "sub", root / "sub" / "link", root):
        os.utime(path, ns=TIME, follow_symlinks=False)


def facts(root: Path) -> dict[str, object]:
    """What a copy must share with its original."""
    found: dict[str, object] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        mode, mtime_ns = status.st_mode, status.st_mtime_ns
        is_file = stat.S_ISREG(mode)
        found[str(path.relative_to(root))] = (mode, mtime_ns, is_file and status.st_nlink, content)
    return found


# --- copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
async def test_copy_keeps_everything(copies: Copies, tmp_path: Path, *, exclusive: bool) -> None:
    """Modes, times, links, hard links, holes, and names of any bytes."""
    make_tree(tmp_path / "a")
    before = facts(tmp_path / "a")
    assert await copies.copy("a", "new/b", exclusive=exclusive) == f"{tmp_path}/new/b"
    assert facts(tmp_path / "new" / "b") == before == facts(tmp_path / "a")
    assert os.stat(tmp_path / "new" / "b" / "holes").st_blocks * 512 < 1 << 20
    assert os.listdir(tmp_path / "new") == ["b"]


async def test_copy_places_as_cp_does(copies: Copies, tmp_path: Path) -> None:
    """Into a directory or a link to one, else under the new name; a link is copied as a link."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "to dir").symlink_to("dir")
    (tmp_path / "a").write_text("A")
    (tmp_path / "l").symlink_to("a")
    assert await copies.copy("a", "dir") == f"{tmp_path}/dir/a"
    assert await copies.copy("a", "to dir/") == f"{tmp_path}/to dir/a"
    assert await copies.copy("l", "l2") == f"{tmp_path}/l2"
    assert os.readlink(tmp_path / "l2") == "a"
    assert await copies.copy("dir", "dir2") == f"{tmp_path}/dir2"
    assert await copies.copy("dir", "dir2") == f"{tmp_path}/dir2/dir"
    assert (tmp_path / "dir2" / "dir" / "a").read_text() == "A"


async def test_copy_overwrites_and_merges(copies: Copies, tmp_path: Path) -> None:
    """Files are replaced, directories keep their own mode and what else is in them."""
    (tmp_path / "a" / "d").mkdir(parents=True)
    (tmp_path / "a" / "d" / "f").write_text("new")
    (tmp_path / "a" / "d" / "l").symlink_to("f")
    target = tmp_path / "into" / "a" / "d"
    target.mkdir(parents=True, mode=0o700)
    (target / "f").write_text("old")
    (target / "l").write_text("old")
    (target / "kept").write_text("kept")
    await copies.copy("a", "into")
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "f": "new",
        "l": "new",
        "kept": "kept",
    }
    assert (target / "l").is_symlink()
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o700


async def test_copy_exclusive_touches_nothing(copies: Copies, tmp_path: Path) -> None:
    """Whatever has the name, an empty directory or a dangling link, stays and is a conflict."""
    (tmp_path / "a").write_text("A")
    (tmp_path / "d").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "into" / "a").mkdir(parents=True)
    for source, destination in (("a", "file"), ("a", "link"), ("d", "file"), ("a", "into")):
        with pytest.raises(ConflictError, match="file exists") as caught:
            await copies.copy(source, destination, exclusive=True)
        assert caught.value.fields == TAKEN
        assert caught.value.message.startswith(f"error copying destination {destination}: ")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path / "into" / "a") == []
    assert not (tmp_path / "nowhere").exists()


def test_copy_exclusive_has_no_gap(tmp_path: Path) -> None:
    """Who takes the name while the copy is made keeps it."""
    (tmp_path / "a").write_text("A")
    asked: list[None] = []

    def intrude() -> bool:
        asked.append(None)
        (tmp_path / "b").write_text("intruder")
        return False

    with pytest.raises(FailedError, match="file exists"):
        Copying(exclusive=True, stopped=intrude).run(str(tmp_path / "a"), str(tmp_path / "b"))
    assert asked
    assert (tmp_path / "b").read_text() == "intruder"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_rename_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is taken stays, where the file system renames in one step and where not."""

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    for step in range(2):
        here = tmp_path / str(step)
        (here / "dir").mkdir(parents=True)
        for name in ("file", "other"):
            (here / name).write_text(name)
        for source, target in (("file", "other"), ("file", "dir"), ("dir", "other")):
            with pytest.raises(FileExistsError):
                rename_new(str(here / source), str(here / target))
        rename_new(str(here / "file"), str(here / "new"))
        rename_new(str(here / "dir"), str(here / "new dir"))
        assert sorted(os.listdir(here)) == ["new", "new dir", "other"]
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's, whichever it is
            rename_new(str(here / "new dir"), str(here / "new dir" / "below"))
        assert os.listdir(here / "new dir") == []
        monkeypatch.setattr("sandbox_api.core.linux.rename_exclusive", refuse)


@pytest.mark.parametrize(
    ("source", "destination", "text"),
    [
        ("d", "d/sub/x", "cannot go into itself"),
        ("d", "d", "cannot go into itself"),
        ("d", "to d/x", "cannot go into itself"),
        ("/", "d/x", "cannot go into itself"),
        ("f", "f", "the same file"),
        ("f", "link", "the same file"),
        ("f", "d/f", "is a directory"),
        ("f", ".sandbox-api-1", "reserved"),
        ("f", "f/x", "not a directory"),
        ("d", "f", "not a directory"),
    ],
)
async def test_impossible_copies_and_moves(
    copies: Copies, tmp_path: Path, source: str, destination: str, text: str
) -> None:
    """Each is refused with its reason and changes nothing."""
    (tmp_path / "d" / "f" / "f").mkdir(parents=True)
    (tmp_path / "to d").symlink_to("d")
    (tmp_path / "f").write_text("F")
    (tmp_path / "link").symlink_to("f")
    before = facts(tmp_path)
    with pytest.raises(FailedError, match=text):
        await copies.copy(source, destination)
    if source != "/":
        with pytest.raises(FailedError, match="error moving"):
            await copies.move(source, destination)
    assert facts(tmp_path) == before


async def test_copy_what_is_not_there(copies: Copies, tmp_path: Path) -> None:
    """A missing source, and what is ours, are not found."""
    (tmp_path / ".sandbox-api-1").touch()
    for source in ("nope", ".sandbox-api-1"):
        for call in (copies.copy, copies.move):
            with pytest.raises(NotFoundError, match="no such file or directory"):
                await call(source, "x")
    assert not (tmp_path / "x").exists()


async def test_copy_refuses_what_is_no_file(copies: Copies, tmp_path: Path) -> None:
    """A fifo does not make it wait, nor does a socket."""
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "fifo")
    with pytest.raises(FailedError, match="fifo, a socket or a device"):
        await copies.copy("d", "e")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(FailedError, match="fifo, a socket or a device"):
            await copies.copy("socket", "e")


async def test_copy_of_a_pseudo_file(copies: Copies, tmp_path: Path) -> None:
    """What does not tell its size is copied to its end."""
    await copies.copy("/proc/self/status", "status")
    assert (tmp_path / "status").read_text().startswith("Name:")


async def test_g20_copy_on_a_full_disk(copies: Copies, small_disk: Path, tmp_path: Path) -> None:
    """What does not fit is refused; the old content and nothing of ours is there."""
    (tmp_path / "big").write_bytes(bytes(range(256)) * 8192)
    (small_disk / "big").write_text("old")
    with pytest.raises(FailedError, match="no space left on device"):
        await copies.copy("big", str(small_disk))
    with pytest.raises(FailedError, match="no space left on device"):
        await copies.move("big", str(small_disk))
    assert (small_disk / "big").read_text() == "old"
    assert os.listdir(small_disk) == ["big"]
    assert (tmp_path / "big").stat().st_size == 2 << 20


async def test_g29_copy_as_the_workload_user(tmp_path: Path, nobody_threads: FileThreads) -> None:
    """What that user cannot read is not copied, what it copies belongs to it, without set-id."""
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", 65534, 65534)
    (tmp_path / "secret").write_text("s")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "tool").write_text("t")
    (tmp_path / "tool").chmod(0o4755)
    let_others_in(tmp_path)
    copies = Copies(nobody_threads, PathResolver(str(tmp_path), ""))
    for call in (copies.copy, copies.move):
        with pytest.raises(FailedError, match="permission denied"):
            await call("secret", "own")
    await copies.copy("tool", "own")
    status = os.stat(tmp_path / "own" / "tool")
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (65534, 0o755)


def test_copy_can_be_stopped(tmp_path: Path) -> None:
    """The end of the daemon does not wait for a long copy."""
    (tmp_path / "a").mkdir()
    for number in range(5):
        (tmp_path / "a" / str(number)).touch()
    asked = iter([False] * 3)
    with pytest.raises(UnavailableError, match="not complete"):
        Copying(exclusive=True, stopped=lambda: next(asked, True)).run(
            str(tmp_path / "a"), str(tmp_path / "b")
        )
    assert len(os.listdir(tmp_path / "b")) < 5


# --- moves -------------------------------------------------------------------------------------


async def test_move(copies: Copies, tmp_path: Path) -> None:
    """The same inode under the new name; into a directory, over a file, but not over a link's
    target."""
    make_tree(tmp_path / "a")
    before, inode = facts(tmp_path / "a"), os.stat(tmp_path / "a").st_ino
    assert await copies.move("a", "new/b") == f"{tmp_path}/new/b"
    assert facts(tmp_path / "new" / "b") == before
    assert os.stat(tmp_path / "new" / "b").st_ino == inode
    (tmp_path / "f").write_text("F")
    (tmp_path / "target").write_text("T")
    (tmp_path / "link").symlink_to("target")
    await copies.move("f", "link")
    assert (tmp_path / "link").read_text() == "F"
    assert (tmp_path / "target").read_text() == "T"
    assert await copies.move("link", "new") == f"{tmp_path}/new/link"
    assert sorted(os.listdir(tmp_path)) == ["new", "target"]


@pytest.mark.parametrize("name", ["file", "dir"])
async def test_move_exclusive_touches_nothing(copies: Copies, tmp_path: Path, name: str) -> None:
    """What has the name stays, and so does the source."""
    (tmp_path / "file").write_text("F")
    (tmp_path / "dir").mkdir()
    (tmp_path / "taken").write_text("old")
    (tmp_path / "into" / name).mkdir(parents=True)
    for destination in ("taken", "into"):
        with pytest.raises(ConflictError) as caught:
            await copies.move(name, destination, exclusive=True)
        assert caught.value.fields == TAKEN
    assert (tmp_path / "taken").read_text() == "old"
    assert (tmp_path / name).exists()
    await copies.move(name, "free", exclusive=True)
    assert (tmp_path / "free").exists()
    assert not (tmp_path / name).exists()


async def test_move_across_file_systems(copies: Copies, tmp_path: Path, small_disk: Path) -> None:
    """All of it arrives, owners and set-id bits too, at once; then the source is gone."""
    source = tmp_path / "a"
    (source / "sub").mkdir(parents=True)
    (source / "tool").write_text("t")
    os.chown(source / "tool", 1234, 4321)
    (source / "tool").chmod(0o4755)
    (source / "sub" / "link").symlink_to("../tool")
    os.setxattr(source / "tool", "user.note", b"n")
    os.utime(source, ns=TIME)
    before = facts(source)
    await copies.move("a", str(small_disk / "deep" / "b"))
    moved = small_disk / "deep" / "b"
    assert facts(moved) == before
    status = os.stat(moved / "tool")
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert not source.exists()
    assert os.listdir(small_disk / "deep") == ["b"]
    (tmp_path / "file").write_text("F")
    await copies.move("file", str(moved / "sub"), exclusive=True)
    assert (moved / "sub" / "file").read_text() == "F"
    assert not (tmp_path / "file").exists()


async def test_move_across_of_what_changes_meanwhile(
    copies: Copies, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wrote the source during the copy finds it, for that edit was not moved."""
    source = tmp_path / "a"
    source.write_text("old")
    run = Copying.run

    def run_and_edit(copying: Copying, *paths: str) -> None:
        run(copying, *paths)
        write_file(str(source), b"edit")

    monkeypatch.setattr(Copying, "run", run_and_edit)
    with pytest.raises(FailedError, match="it was changed while it was moved"):
        await copies.move("a", str(small_disk / "b"))
    assert source.read_text() == "edit"
    assert (small_disk / "b").read_text() == "old"


@pytest.mark.parametrize(("source", "content"), MADE_UP)
async def test_copy_of_what_the_kernel_makes_up(
    copies: Copies, tmp_path: Path, source: str, content: bytes
) -> None:
    """Its size says nothing."""
    await copies.copy(source, "copy")
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("held", ["a", "d/a", "link"])
async def test_moves_and_links_wait_for_writers_with_a_condition(
    copies: Copies, tmp_path: Path, held: str
) -> None:
    """Between the look at a file and its replacement nobody takes it away or puts another there."""
    (tmp_path / "a").write_text("A")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "d").mkdir()
    with PATH_LOCKS.hold(str(tmp_path / held)):
        work = copies.copy("b", "link") if held == "link" else copies.move("a", "d")
        waiting = asyncio.ensure_future(work)
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        assert (tmp_path / "a").exists()
        assert os.listdir(tmp_path / "d") == []
        assert not (tmp_path / "link").exists()
    await waiting


async def test_of_a_writer_and_a_mover_the_edit_is_kept(copies: Copies, tmp_path: Path) -> None:
    """Either the edit is moved, or its condition does not hold."""
    source, target = tmp_path / "a", tmp_path / "b"
    for _ in range(50):
        status = write_file(str(source), b"old")
        condition = Condition(match=frozenset({file_version(status)}))
        write = asyncio.to_thread(write_file, str(source), b"edit", condition=condition)
        written, _ = await asyncio.gather(write, copies.move("a", "b"), return_exceptions=True)
        assert isinstance(written, PreconditionError) == (target.read_bytes() == b"old")
        assert not source.exists()
        target.unlink()


async def test_a_device_or_a_fifo_is_never_replaced(copies: Copies, tmp_path: Path) -> None:
    """Not by a file, nor by a link: what needs /dev/null would fail from then on."""
    (tmp_path / "file").write_text("F")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    targets = [str(tmp_path / "fifo")]
    if os.geteuid() == 0:  # not the machine's own: it would be gone when this fails
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        targets.append(str(tmp_path / "null"))
    for target in targets:
        before = os.lstat(target)
        for work in (copies.move("file", target), copies.copy("link", target)):
            with pytest.raises(FailedError, match="is a device or a fifo, which is not replaced"):
                await work
        assert os.path.samestat(os.lstat(target), before)
    assert {"fifo", "file", "link"} <= set(os.listdir(tmp_path))


async def test_moves_in_a_circle(copies: Copies, tmp_path: Path) -> None:
    """Two that go opposite ways do not wait for each other without end."""
    for number in range(50):
        (tmp_path / "a").write_text(str(number))
        moves = (copies.move("a", "b"), copies.move("b", "a"))
        await asyncio.wait_for(asyncio.gather(*moves, return_exceptions=True), 10)
    assert PATH_LOCKS._entries == {}


async def test_move_across_onto_what_cannot_be_replaced(
    copies: Copies, tmp_path: Path, small_disk: Path
) -> None:
    """When the last step fails, the source is still there and nothing else is left."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_text("F")
    (small_disk / "d" / "a" / "full").mkdir(parents=True)
    with pytest.raises(FailedError, match="directory not empty"):
        await copies.move("a", str(small_disk / "d"))
    assert (tmp_path / "a" / "f").read_text() == "F"
    assert os.listdir(small_disk / "d") == ["a"]


async def test_move_whose_source_stays(
    copies: Copies, immutable_file: Path, small_disk: Path
) -> None:
    """A source that cannot be removed is told of; it is there twice then, not gone."""
    with pytest.raises(FailedError, match="all is there, but the source could not be removed"):
        await copies.move(str(immutable_file), str(small_disk))
    assert (small_disk / immutable_file.name).read_text() == "I"


async def test_g25_move_of_what_the_sandbox_needs(copies: Copies, tmp_path: Path) -> None:
    """The working directory, HOME, system directories and what holds them stay."""
    (tmp_path / "home").mkdir()
    for source in ("/", "/usr", ".", "..", "home", str(tmp_path)):
        with pytest.raises(SandboxError, match="force=true"):
            await copies.move(source, "/nowhere/else")
    await copies.move("home", "x", force=True)
    assert (tmp_path / "x").is_dir()
