"""Writes of the daemon itself, as a watch tells them: whole files under their own names."""

import os
from pathlib import Path

import pytest

from sandbox_api.core.atomic import write_file
from sandbox_api.core.entries import replace_entry
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.watch import Watches
from sandbox_api.errors import FailedError
from tests.core.watch.conftest import Watch


@pytest.mark.parametrize("recursive", [True, False])
async def test_new_file_is_create_and_write(
    watch: Watch, root: Path, threads: FileThreads, recursive: bool
) -> None:
    """The file under its temporary name is nobody's business."""
    watching = await watch(recursive=recursive)
    await threads.run(write_file, str(root / "f"), b"x")
    assert await watching.catch_up() == ["CREATE f", "WRITE f"]


@pytest.mark.parametrize("recursive", [True, False])
async def test_existing_file_is_write(
    watch: Watch, root: Path, threads: FileThreads, recursive: bool
) -> None:
    """Once for each time."""
    (root / "f").touch()
    watching = await watch(recursive=recursive)
    for _ in range(3):
        await threads.run(write_file, str(root / "f"), b"x")
    assert await watching.catch_up() == ["WRITE f"] * 3


async def test_every_watcher_is_told(
    watch: Watch, root: Path, tmp_path: Path, threads: FileThreads
) -> None:
    """Under another name of the directory, and of another daemon in this process, too."""
    (root / "f").touch()
    link = tmp_path / "link"
    link.symlink_to(root)
    other = Watches(threads)
    async with other.open():
        watchings = [await watch(), await watch(link), await watch(of=other)]
        await threads.run(write_file, str(root / "f"), b"x")
        await threads.run(write_file, str(link / "g"), b"x")
        for watching in watchings:
            await watching.catch_up()
            assert watching.told == ["WRITE f", "CREATE g", "WRITE g"]
            await watching.close()


async def test_write_that_fails_is_not_mixed_up_with_the_next(
    watch: Watch, root: Path, threads: FileThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that did not happen leaves nothing behind."""
    (root / "f").touch()
    watching = await watch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(FailedError):
            await threads.run(write_file, str(root / "f"), b"x")
    (root / "f").unlink()
    await threads.run(write_file, str(root / "f"), b"x")
    assert await watching.catch_up() == ["REMOVE f", "CREATE f", "WRITE f"]


async def test_links_take_their_places_likewise(
    watch: Watch, root: Path, threads: FileThreads
) -> None:
    """Copies and archives make links; a link that is there already changes nothing."""
    (root / "f").touch()
    watching = await watch()
    await threads.run(replace_entry, str(root / "f"), lambda name: os.symlink("x", name))
    (root / "g").touch()
    await threads.run(replace_entry, str(root / "h"), lambda name: os.link(root / "g", name))
    await threads.run(replace_entry, str(root / "h"), lambda name: os.link(root / "g", name))
    (root / "h").unlink()
    await threads.run(write_file, str(root / "h"), b"x")
    lines = [line for line in await watching.catch_up() if not line.startswith("CHMOD")]
    assert lines == [
        "WRITE f",
        "CREATE g",
        "CREATE h",
        "WRITE h",
        "REMOVE h",
        "CREATE h",
        "WRITE h",
    ]
