"""What happens while a directory is gone into, and what happens when there is too much of it."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from sandbox_api.core.watch import followed, inotify, scan, tree
from tests.core.watch.conftest import Watch


def hold_scans(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let it take long to list a directory."""
    listing = scan.Scanner._list

    def slowly(self: scan.Scanner, level: scan._Level) -> object:
        time.sleep(seconds)
        return listing(self, level)

    monkeypatch.setattr(scan.Scanner, "_list", slowly)


async def test_directory_is_renamed_meanwhile(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is followed under its last name, with all that is in it."""
    watching = await watch(recursive=True)
    hold_scans(monkeypatch, seconds=0.02)
    (root / "a" / "b" / "c").mkdir(parents=True)
    await asyncio.sleep(0.03)
    (root / "a").rename(root / "a2")
    (root / "a2" / "b").rename(root / "a2" / "b2")
    await watching.catch_up()
    for directory in ("a2", "a2/b2", "a2/b2/c"):
        (root / directory / "probe").touch()
    lines = await watching.catch_up()
    for directory in ("a2", "a2/b2", "a2/b2/c"):
        assert f"CREATE {directory}/probe" in lines


async def test_second_half_of_a_rename_comes_late(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens in the directory between both is told under its new path."""
    (root / "a").mkdir()
    watching = await watch(recursive=True)
    taken: list[tuple[object, ...]] = []
    take = tree.Tree.take
    monkeypatch.setattr(tree.Tree, "take", lambda *args: taken.append(args))
    (root / "a").rename(root / "b")
    (root / "b" / "f").mkdir()
    await watching.until(lambda: len(taken) >= 3)
    named = {args[1].name: args for args in taken if args[1].name}  # type: ignore[attr-defined]
    monkeypatch.setattr(tree.Tree, "take", take)
    for name in ("a", "f", "b"):
        take(*named[name])  # type: ignore[arg-type]
    assert await watching.catch_up() == ["RENAME a", "CREATE b", "CREATE b/f"]


async def test_parent_is_renamed_before_it_is_entered(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory at a path that another has by now is not taken for it."""
    (root / "p").mkdir()
    watching = await watch(recursive=True)
    monkeypatch.setattr(followed, "MOVE_S", 0.5)
    # one turn of the event loop sees all of it: nothing is entered before
    (root / "p" / "new").mkdir()
    (root / "p").rename(root / "q")
    (root / "p" / "new" / "wrong").mkdir(parents=True)
    await watching.catch_up()
    for number, directory in enumerate(("q/new", "p/new", "p/new/wrong")):
        (root / directory / f"probe{number}").touch()
    lines = await watching.catch_up()
    assert [line for line in lines if "probe" in line] == [
        "CREATE q/new/probe0",
        "CREATE p/new/probe1",
        "CREATE p/new/wrong/probe2",
    ]


async def test_g24_more_than_can_wait_is_an_overflow(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a directory is gone into, events pile up; afterwards all are followed again."""
    monkeypatch.setattr(tree, "MAX_PENDING", 10)
    watching = await watch(recursive=True)
    hold_scans(monkeypatch, seconds=0.2)
    (root / "a" / "b").mkdir(parents=True)
    for number in range(100):
        (root / f"f{number}").touch()
        await asyncio.sleep(0.002)
    (root / "late").mkdir()
    await watching.until(lambda: any("list the directory again" in t for t in watching.told))
    await watching.catch_up()
    (root / "a" / "b" / "f").touch()
    (root / "late" / "f").touch()
    lines = await watching.catch_up()
    assert {"CREATE a/b/f", "CREATE late/f"} <= set(lines)


async def test_g24_scan_that_takes_too_long_is_an_overflow(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept for directories that are being gone into has a limit as well."""
    monkeypatch.setattr(inotify, "MAX_KEPT", 5)
    watching = await watch(recursive=True)
    hold_scans(monkeypatch, seconds=0.2)
    (root / "a").mkdir()
    for number in range(50):
        (root / f"f{number}").touch()
        await asyncio.sleep(0.002)
    await watching.until(lambda: any("list the directory again" in t for t in watching.told))
    await watching.catch_up()
    (root / "a" / "probe").touch()
    assert "CREATE a/probe" in await watching.catch_up()


def queue_length() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


async def test_g24_overflow_of_the_kernel(watch: Watch, root: Path) -> None:
    """More events than its queue holds, while nobody reads: that is told, and what comes then."""
    watching = await watch(recursive=True)
    for number in range(
        queue_length() // 2 + 100
    ):  # without a pause: the event loop cannot read meanwhile
        os.close(os.open(root / f"f{number}", os.O_CREAT | os.O_WRONLY))
        os.unlink(root / f"f{number}")
    (root / "unseen").mkdir()
    await watching.until(lambda: any("list the directory again" in t for t in watching.told))
    await watching.catch_up()
    (root / "unseen" / "f").touch()
    assert "CREATE unseen/f" in await watching.catch_up()
