"""Watching through the kernel: which lines come of which changes."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox_api.core.watch import Watches, WatchSpec
from sandbox_api.errors import FailedError, InvalidError
from tests.core.conftest import mount
from tests.core.watch.conftest import Watch

Eventually = Callable[..., Awaitable[object]]


async def test_five_operations(watch: Watch, root: Path) -> None:
    """Each change has its own word; a rename tells the old name, the new one is a CREATE."""
    watching = await watch()
    (root / "a").touch()
    (root / "a").write_text("text")
    (root / "a").chmod(0o600)
    (root / "a").rename(root / "b")
    (root / "b").unlink()
    assert [line for line in await watching.catch_up() if line != "CHMOD a"] == [
        "CREATE a",
        *["WRITE a"] * watching.told.count("WRITE a"),
        "RENAME a",
        "CREATE b",
        "REMOVE b",
    ]
    assert "CHMOD a" in watching.told
    assert "WRITE a" in watching.told


async def test_plain_watch_is_of_the_directory_itself(watch: Watch, root: Path) -> None:
    """What happens in its subdirectories is none of it."""
    (root / "sub").mkdir()
    watching = await watch()
    (root / "sub" / "in").touch()
    (root / "new").mkdir()
    (root / "new" / "in").touch()
    assert await watching.catch_up() == ["CREATE new"]


async def test_ignored_paths_are_not_told_and_not_watched(
    watch: Watch, watches: Watches, root: Path
) -> None:
    """A text that is anywhere in the full path silences it, and costs no kernel watch."""
    (root / "node_modules" / "x").mkdir(parents=True)
    (root / "src").mkdir()
    watching = await watch(recursive=True, ignore=["node_modules", ".log"])
    assert watches.kernel_watches == 2
    (root / "node_modules" / "x" / "f").touch()
    (root / "src" / "a.log").touch()
    (root / "src" / "node_modules").mkdir()
    (root / "src" / "a.txt").touch()
    lines = await watching.catch_up()
    assert [line for line in lines if not line.startswith("CHMOD")] == ["CREATE src/a.txt"]
    assert watches.kernel_watches == 2


async def test_g24_new_directories_are_followed(watch: Watch, root: Path) -> None:
    """`mkdir -p a/b/c && echo > a/b/c/f`: every level, each once, those above first."""
    watching = await watch(recursive=True)
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "f").write_text("x")
    lines = await watching.catch_up()
    created = [line for line in lines if line.startswith("CREATE")]
    assert created == ["CREATE a", "CREATE a/b", "CREATE a/b/c", "CREATE a/b/c/f"]
    (root / "a" / "b" / "c" / "g").touch()
    assert "CREATE a/b/c/g" in await watching.catch_up()


async def test_g24_renamed_directory_is_followed_under_its_new_path(
    watch: Watch, root: Path
) -> None:
    """RENAME and CREATE, nothing more; then events have the new path, at every depth."""
    (root / "sub" / "deep").mkdir(parents=True)
    watching = await watch(recursive=True)
    (root / "sub").rename(root / "sub2")
    (root / "sub2" / "deep" / "x").mkdir()
    (root / "sub2" / "deep" / "x" / "y").mkdir()
    assert await watching.catch_up() == [
        "RENAME sub",
        "CREATE sub2",
        "CREATE sub2/deep/x",
        "CREATE sub2/deep/x/y",
    ]


async def test_g24_directory_that_is_moved_in_is_told_whole(
    watch: Watch, root: Path, tmp_path: Path
) -> None:
    """It comes with all that is in it, and is followed."""
    (tmp_path / "outside" / "a").mkdir(parents=True)
    (tmp_path / "outside" / "a" / "f").touch()
    watching = await watch(recursive=True)
    (tmp_path / "outside").rename(root / "in")
    assert await watching.catch_up() == ["CREATE in", "CREATE in/a", "CREATE in/a/f"]
    (root / "in" / "a" / "g").mkdir()
    assert (await watching.catch_up())[-1] == "CREATE in/a/g"


async def test_directory_that_is_moved_out_is_followed_no_more(
    watch: Watch, watches: Watches, root: Path, tmp_path: Path
) -> None:
    """Its new place is not below the watched directory; its kernel watches are given back."""
    (root / "sub" / "a").mkdir(parents=True)
    watching = await watch(recursive=True)
    (root / "sub").rename(tmp_path / "gone")
    (tmp_path / "gone" / "a" / "f").touch()
    assert await watching.catch_up() == ["RENAME sub"]
    await watching.until(lambda: watches.kernel_watches == 1)


async def test_directory_that_takes_the_place_of_another_is_followed(
    watch: Watch, root: Path, tmp_path: Path
) -> None:
    """A rename over an empty directory: the old one's watch is not mistaken for the new one's."""
    (root / "to").mkdir()
    (tmp_path / "from" / "in").mkdir(parents=True)
    watching = await watch(recursive=True)
    os.rename(tmp_path / "from", root / "to")
    (root / "to" / "in" / "f").touch()
    assert "CREATE to/in/f" in await watching.catch_up()


async def test_g24_removal_is_told_and_ends_the_watch(watch: Watch, root: Path) -> None:
    """A last REMOVE with its own name, why it ends, and the end."""
    watching = await watch(recursive=True)
    (root / "f").touch()
    shutil.rmtree(root)
    await watching.until(lambda: watching.ended)
    assert watching.told[-3:-1] == ["REMOVE f", "REMOVE ."]
    last = watching.events[-1]
    assert (last.op, last.name, last.path) == ("", "", str(root))
    assert "removed" in str(last.error)


async def test_g24_move_of_the_watched_directory_ends_the_watch(
    watch: Watch, root: Path, tmp_path: Path
) -> None:
    """What is told would have a path that is not true any more."""
    watching = await watch()
    os.rename(root, tmp_path / "elsewhere")
    await watching.until(lambda: watching.ended)
    assert watching.told[0] == "RENAME ."
    assert "was moved" in watching.told[1]


async def test_g24_move_of_a_directory_above_ends_the_watch(watch: Watch, tmp_path: Path) -> None:
    """The kernel does not tell of it: it is found by looking."""
    (tmp_path / "above" / "watched").mkdir(parents=True)
    watching = await watch(tmp_path / "above" / "watched")
    (tmp_path / "above").rename(tmp_path / "other")
    await watching.until(lambda: watching.ended)
    assert "moved or removed" in watching.told[-1]


async def test_link_to_a_directory_can_be_watched(watch: Watch, root: Path, tmp_path: Path) -> None:
    """With the path that was asked for; links below are not entered."""
    (root / "sub").mkdir()
    (tmp_path / "other").mkdir()
    (root / "link").symlink_to(tmp_path / "other")
    start = tmp_path / "start"
    start.symlink_to(root)
    watching = await watch(start, recursive=True)
    (root / "sub" / "f").mkdir()
    (tmp_path / "other" / "g").mkdir()
    assert await watching.catch_up() == ["CREATE sub/f"]
    assert watching.events[0].path == f"{start}/sub"


async def test_readers_share_kernel_watches(watch: Watch, watches: Watches, root: Path) -> None:
    """One for each directory, whoever watches it; the last one to leave gives it back."""
    (root / "sub").mkdir()
    first = await watch(recursive=True)
    second = await watch(recursive=True)
    third = await watch(root / "sub")
    assert watches.kernel_watches == 2
    (root / "sub" / "f").mkdir()
    for watching in (first, second):
        assert await watching.catch_up() == ["CREATE sub/f"]
    assert await third.catch_up() == ["CREATE f"]


async def test_watch_that_ends_gives_everything_back(
    watches: Watches, root: Path, eventually: Eventually
) -> None:
    """Kernel watches and descriptors are where they were, however often somebody comes and goes."""
    for number in range(30):
        (root / f"d{number}" / "sub").mkdir(parents=True)
    spec = WatchSpec(str(root), recursive=True)
    async with watches.watch(spec):
        before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        async with watches.watch(spec):
            assert watches.kernel_watches == 61
    await eventually(lambda: not watches.kernel_watches)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_client_that_leaves_while_it_is_armed_leaves_nothing(
    watches: Watches, root: Path, eventually: Eventually
) -> None:
    """Arming looks at many directories; whoever waits for it may go."""
    for number in range(2000):
        (root / f"d{number}").mkdir()

    async def stay() -> None:
        async with watches.watch(WatchSpec(str(root), recursive=True)):
            pytest.fail("it was cancelled before")

    for _ in range(5):
        client = asyncio.create_task(stay())
        await eventually(lambda: watches.kernel_watches)
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert client.cancelled()
    await eventually(lambda: not watches.kernel_watches and not kernels_own_count(), 20)


def kernels_own_count() -> int:
    """The kernel watches of this process, as the kernel has them (proc_pid_fdinfo(5))."""
    count = 0
    for descriptor in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            count += descriptor.read_text().count("inotify wd:")
    return count


async def test_replaced_directory_is_watched_anew(watch: Watch, root: Path) -> None:
    """Whoever comes later gets what the path means now."""
    first = await watch()
    os.rename(root, root.with_name("old"))
    os.mkdir(root)
    second = await watch()
    (root / "f").mkdir()
    assert await second.catch_up() == ["CREATE f"]
    await first.until(lambda: first.ended)


async def test_bytes_that_are_no_utf8_are_names(watch: Watch, root: Path) -> None:
    """Every name that the kernel takes is told, and such a directory is followed."""
    watching = await watch(recursive=True)
    name = os.fsdecode(b"d\xff")
    (root / name).mkdir()
    (root / name / "f").touch()
    assert f"CREATE {name}/f" in await watching.catch_up()


async def test_deep_directories_are_followed(watch: Watch, root: Path) -> None:
    """As deep as a path can be."""
    watching = await watch(recursive=True)
    deep = "/".join("d" * 900)
    for depth in range(1, 901):
        (root / deep[: 2 * depth - 1]).mkdir()
    await watching.catch_up()
    (root / deep / "f").touch()
    assert f"CREATE {deep}/f" in await watching.catch_up()


@pytest.mark.parametrize("name", ["missing", "file", "file/below"])
async def test_what_is_no_directory_is_refused(watches: Watches, root: Path, name: str) -> None:
    """With the reference's text, and the path."""
    (root / "file").touch()
    kind = FailedError if name == "file/below" else InvalidError
    with pytest.raises(kind, match="not a directory"):
        async with watches.watch(WatchSpec(str(root / name))):
            pass
    assert watches.kernel_watches == 0


async def test_directory_below_a_mount_is_followed(watch: Watch, root: Path) -> None:
    """When the mount has gone, what it hid is there again."""
    (root / "mount" / "hidden").mkdir(parents=True)
    mount(["-t", "tmpfs", "tmpfs", str(root / "mount")])
    (root / "mount" / "above").mkdir()
    watching = await watch(recursive=True)
    (root / "mount" / "above" / "f").touch()
    assert await watching.catch_up() == ["CREATE mount/above/f"]
    unmount(root / "mount")
    await watching.catch_up()
    (root / "mount" / "hidden" / "g").touch()
    assert "CREATE mount/hidden/g" in await watching.catch_up()


async def test_proc_is_not_entered(watch: Watch, watches: Watches, root: Path) -> None:
    """Watching everything does not take thousands of kernel watches for files that are none."""
    (root / "proc").mkdir()
    (root / "sub").mkdir()
    mount(["-t", "proc", "proc", str(root / "proc")])
    try:
        watching = await watch(recursive=True)
        assert watches.kernel_watches == 2
        await watching.close()
    finally:
        unmount(root / "proc")


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)
