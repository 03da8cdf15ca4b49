"""Directories as wholes: read under limits, written below their root or not at all."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.files import Files
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.tree_write import TreeWrite
from sandbox_api.core.trees import Tree, TreeQuery, Trees
from sandbox_api.core.walk import WalkScope
from sandbox_api.errors import (
    DeadlineError,
    FailedError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from tests.core.conftest import let_others_in

KEYS = st.lists(
    st.lists(st.sampled_from(["a", "b", "..", ".", ""]), max_size=4).map("/".join), unique=True
)


def make_trees(threads: FileThreads, workdir: Path) -> tuple[Trees, Files]:
    files = Files(threads, PathResolver(str(workdir), str(workdir)))
    return Trees(threads, files, max_bytes=1000), files


@pytest.fixture
async def threads() -> AsyncIterator[FileThreads]:
    """The daemon's own threads."""
    owner = FileThreads(None)
    yield owner
    owner.close()


@pytest.fixture
def read(threads: FileThreads, tmp_path: Path) -> Callable[..., Awaitable[Tree]]:
    """`await read("path", content=True)`: a tree below the working directory."""
    trees, files = make_trees(threads, tmp_path)

    async def call(path: str, **query: object) -> Tree:
        return await trees.read(files.resolve(path), TreeQuery(**query))  # type: ignore[arg-type]

    return call


Read = Callable[..., Awaitable[Tree]]


def make(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def snapshot(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_text() for path in files}


# --- reading -----------------------------------------------------------------------------------


async def test_read_all_that_is_below(read: Read, tmp_path: Path) -> None:
    """Every file with its content, every directory, in a fixed order; nothing is left out."""
    make(tmp_path, b="B", _hidden="h", d__e__f_py="print()", node_modules__x="n")
    os.rename(tmp_path / "node.modules", tmp_path / "node_modules")
    tree = await read(".", content=True)
    found = {file.path: file.content for file in tree.files}
    assert found == {".hidden": "h", "b": "B", "d/e/f.py": "print()", "node_modules/x": "n"}
    assert list(found) == sorted(found)
    assert [directory.path for directory in tree.subdirectories] == ["d", "d/e", "node_modules"]
    assert {file.encoding for file in tree.files} == {"utf-8"}
    assert [file.content for file in (await read(".")).files] == [None] * 4


async def test_read_what_is_asked_for(read: Read, tmp_path: Path) -> None:
    """Patterns are for names of files, exclusions for directories and hidden names."""
    make(tmp_path, a_py="", a_js="", a_txt="", util__b_py="", _c_py="", _git__d_py="")
    tree = await read(
        ".", patterns=("*.py", "*.js"), scope=WalkScope(frozenset({"util"}), exclude_hidden=True)
    )
    assert [file.name for file in tree.files] == ["a.js", "a.py"]
    assert tree.subdirectories == []


async def test_read_content_of_what_is_no_plain_text(read: Read, tmp_path: Path) -> None:
    """A link to a file has its content; a fifo, a dangling link and a link to a directory none."""
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    (tmp_path / "link").symlink_to("binary")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "up").symlink_to("..")
    os.mkfifo(tmp_path / "fifo")
    tree = await read(".", content=True, encoding="base64")
    found = {file.name: file.content for file in tree.files}
    assert found == {
        "binary": "/wA=",
        "link": "/wA=",
        "dangling": None,
        "up": None,
        "fifo": None,
    }


async def test_read_has_limits(read: Read, tmp_path: Path) -> None:
    """Over a limit there is an error that says which, and nothing partial."""
    make(tmp_path, a="x" * 400, b="x" * 400, c="x" * 400, d__e="")
    with pytest.raises(FailedError, match="more than 3 files"):
        await read(".", max_files=3)
    assert len((await read(".", max_files=4)).files) == 4
    with pytest.raises(FailedError, match="more than 500 bytes"):
        await read(".", content=True, max_bytes=500)
    with pytest.raises(FailedError, match=r"more than 1000 bytes.*x-tar"):
        await read(".", content=True)  # the daemon's own limit
    assert len((await read(".", content=True, patterns=("[ab]",))).files) == 2


async def test_read_what_is_no_directory(read: Read, tmp_path: Path) -> None:
    """A missing directory is told from a file."""
    make(tmp_path, a="")
    with pytest.raises(NotFoundError, match=r"path is not a directory: stat .*/nope"):
        await read("nope")
    with pytest.raises(InvalidError, match=r"path is not a directory: .*/a is a file"):
        await read("a")
    with pytest.raises(FailedError, match="not a directory"):
        await read("a/b")


async def test_read_has_a_deadline(read: Read, tmp_path: Path) -> None:
    """Also where the disk never answers; the text says how to ask for less."""
    make(tmp_path, a="A")
    with pytest.raises(DeadlineError, match="over 0 s; narrow it by patterns"):
        await read(".", deadline_s=0)


async def test_g27_read_of_the_whole_machine_ends(read: Read) -> None:
    """By its limits, in /proc and /sys too, whatever their files do when they are read."""
    for path, query in (
        ("/", {"content": True}),
        ("/", {"max_files": 100, "content": True}),
        ("/proc/self", {"content": True}),
        ("/proc/sys", {"content": True}),
        ("/sys/kernel", {"content": True}),
    ):
        (found,) = await asyncio.gather(read(path, **query), return_exceptions=True)
        if isinstance(found, FailedError):
            assert "narrow it" in found.message
        else:
            assert isinstance(found, Tree)


async def test_read_of_a_client_that_left_ends(
    read: Read, eventually: Callable[..., Awaitable[object]], threads: FileThreads
) -> None:
    """A walk over the whole machine does not go on for nobody."""
    tasks = [
        asyncio.ensure_future(read("/", patterns=("no such name",), max_files=0)) for _ in range(8)
    ]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.wait_for(threads.run(lambda: "a thread is free"), 5)


async def test_g29_read_and_write_as_the_workload_user(
    tmp_path: Path, nobody_threads: FileThreads
) -> None:
    """What that user cannot read is told without content; what it cannot write is refused."""
    make(tmp_path, closed__x="x", secret="s", open="o")
    (tmp_path / "closed").chmod(0o700)
    (tmp_path / "secret").chmod(0o600)
    let_others_in(tmp_path)
    os.chmod(tmp_path, 0o755)
    trees, files = make_trees(nobody_threads, tmp_path)
    tree = await trees.read(files.resolve("."), TreeQuery(content=True))
    assert {file.name: file.content for file in tree.files} == {"open": "o", "secret": None}
    assert tree.files[1].error == f"open {tmp_path}/secret: permission denied"
    assert tree.unreadable == 1
    with pytest.raises(FailedError, match="permission denied") as caught:
        await trees.write(files.resolve("."), {"new": ""})
    assert caught.value.fields == {"written": [], "failed": "new"}
    with pytest.raises(FailedError, match=r"error getting file system tree: open .*/closed"):
        await trees.list(files.resolve("closed"))


# --- writing -----------------------------------------------------------------------------------


def test_write_files(tmp_path: Path) -> None:
    """Parents are made, keys with a slash in front stay inside, null is an empty file."""
    root = tmp_path / "new" / "root"
    TreeWrite(
        str(root), {"a": "A", "/abs": "B", "d/e/f": None, "g/": "G", "./h//i": "I", "ü\n": "ü"}
    ).run()
    assert snapshot(root) == {"a": "A", "abs": "B", "d/e/f": "", "g": "G", "h/i": "I", "ü\n": "ü"}
    assert (root / "a").stat().st_mode & 0o7777 == 0o644
    (root / "a").chmod(0o751)
    TreeWrite(str(root), {"a": "2"}).run()
    assert (root / "a").read_text() == "2"
    assert (root / "a").stat().st_mode & 0o7777 == 0o751


@pytest.mark.parametrize(
    ("files", "failed", "text"),
    [
        ({"ok": "", "../x": ""}, "../x", "leads out"),
        ({"ok": "", "a/../../x": ""}, "a/../../x", "leads out"),
        ({"ok": "", "": ""}, "", "is a directory"),
        ({"ok": "", "./": ""}, "./", "is a directory"),
        ({"ok": "", "dir": ""}, "dir", "is a directory"),
        ({"a": "", "./a": ""}, "./a", "same file as 'a'"),
        ({"a": "", "a/b/c": ""}, "a/b/c", "'a' is a file as well"),
        ({"a/b": "", "a": ""}, "a/b", "'a' is a file as well"),
        ({"ok": "", "file/x": ""}, "file/x", "not a directory"),
        ({"ok": "", "out/x": ""}, "out/x", "leads out"),
        ({"ok": "", "escape": ""}, "escape", "leads out"),
        ({"ok": "", "x\0": ""}, "x\0", "NUL"),
        ({"ok": "", "n" * 256: ""}, "n" * 256, "too long"),
        ({"ok": "", ".sandbox-api-1": ""}, ".sandbox-api-1", "reserved"),
    ],
)
def test_g25_write_checks_all_keys_first(
    tmp_path: Path, files: dict[str, str | None], failed: str, text: str
) -> None:
    """One key that is not possible, wherever it stands: nothing is written."""
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "file").write_text("old")
    (root / "out").symlink_to(tmp_path)
    (root / "escape").symlink_to(tmp_path / "x")
    with pytest.raises(FailedError, match=text) as caught:
        TreeWrite(str(root), files).run()
    assert caught.value.fields == {"written": [], "failed": failed}
    assert caught.value.message.startswith("error writing file: key '")
    assert sorted(os.listdir(tmp_path)) == ["root"]
    assert snapshot(root) == {"file": "old"}


@given(keys=KEYS)
def test_g25_write_never_leaves_the_root(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    """All files are where their keys say, or none is anywhere."""
    outer = tmp_path_factory.mktemp("outer")
    root = outer / "1" / "2" / "root"
    files: dict[str, str | None] = {key: str(number) for number, key in enumerate(keys)}
    try:
        TreeWrite(str(root), files).run()
    except FailedError:
        assert snapshot(outer) == {}
    else:
        expected = {os.path.normpath(f"./{key}"): content for key, content in files.items()}
        assert snapshot(root) == expected
        assert len(snapshot(outer)) == len(keys)


def test_write_into_what_is_no_directory(tmp_path: Path) -> None:
    """A root that is a file stays a file."""
    (tmp_path / "file").write_text("old")
    for path in ("file", "file/below"):
        with pytest.raises(FailedError, match="error creating root directory: mkdir"):
            TreeWrite(str(tmp_path / path), {"a": ""}).run()
    assert snapshot(tmp_path) == {"file": "old"}


def test_g20_write_tells_what_was_written(small_disk: Path) -> None:
    """A full disk in the middle: the error names exactly what is there, each file whole."""
    root = small_disk / "root"
    files: dict[str, str | None] = {f"d{n}/f": str(n) * 100_000 for n in range(20)}
    with pytest.raises(FailedError, match="no space left on device") as caught:
        TreeWrite(str(root), files).run()
    written = caught.value.fields["written"]
    assert isinstance(written, list)
    assert 0 < len(written) < 20
    assert caught.value.fields["failed"] == list(files)[len(written)]
    assert snapshot(small_disk) == {f"root/{key}": files[key] for key in written}
    for path in small_disk.rglob("f"):
        path.unlink()
    TreeWrite(str(root), {"a": "x" * 500_000}).run()


def test_write_can_be_stopped(tmp_path: Path) -> None:
    """The end of the daemon does not wait for all files."""
    asked = iter([False, True])
    with pytest.raises(UnavailableError) as caught:
        TreeWrite(str(tmp_path), {"a": "", "b": "", "c": ""}).run(lambda: next(asked))
    assert caught.value.fields == {"written": ["a"], "failed": "b"}
