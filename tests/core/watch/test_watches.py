"""Watches that are shared, joined, kept for those who come back, and ended."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.watch import Watches, WatchSpec
from sandbox_api.core.watch import watches as module
from sandbox_api.core.watch.tree import Tree
from sandbox_api.errors import UnavailableError
from tests.core.watch.conftest import Watch

Eventually = Callable[..., Awaitable[object]]


async def test_events_are_kept_for_who_comes_back(watches: Watches, root: Path) -> None:
    """What happens between two connections is told to the second."""
    spec = WatchSpec(str(root))
    async with watches.watch(spec, numbered=True) as reader:
        number, _ = reader.start()
    (root / "f").mkdir()
    async with watches.watch(spec, since=number) as reader:
        assert reader.start()[1].error is None
        assert [event.name for _, event in await reader.next(10) or []] == ["f"]


async def test_nothing_is_kept_for_others(watches: Watches, root: Path) -> None:
    """Who did not ask for numbers cannot come back."""
    async with watches.watch(WatchSpec(str(root))):
        pass
    assert watches.count == 0


async def test_kept_events_end_in_time(
    root: Path, threads: FileThreads, eventually: Eventually
) -> None:
    """And their kernel watch with them."""
    owner = Watches(threads, linger_s=0.05)
    async with owner.open():
        async with owner.watch(WatchSpec(str(root)), numbered=True):
            pass
        assert owner.count == 1
        await eventually(lambda: owner.count == 0 and owner.kernel_watches == 0)


async def test_few_watches_are_kept(watches: Watches, root: Path) -> None:
    """However many come and go: the oldest give way."""
    for number in range(2 * module.MAX_LINGERING):
        (root / f"d{number}").mkdir()
        async with watches.watch(WatchSpec(str(root / f"d{number}")), numbered=True):
            pass
    assert watches.count == module.MAX_LINGERING


async def test_reader_that_comes_back_ends_the_waiting(
    root: Path, threads: FileThreads, eventually: Eventually
) -> None:
    """A watch that is read again does not end under its reader."""
    owner = Watches(threads, linger_s=0.05)
    spec = WatchSpec(str(root))
    async with owner.open():
        async with owner.watch(spec, numbered=True):
            pass
        async with owner.watch(spec, numbered=True) as reader:
            assert await reader.next(0.2) == []
            (root / "f").mkdir()
            assert [event.name for _, event in await reader.next(10) or []] == ["f"]


async def test_arming_happens_once(watches: Watches, root: Path) -> None:
    """Readers that come at the same moment share one."""
    spec = WatchSpec(str(root), recursive=True)

    async def stay() -> int:
        async with watches.watch(spec):
            await asyncio.sleep(0)
            return watches.count

    assert await asyncio.gather(*(stay() for _ in range(20))) == [1] * 20


async def test_watches_end_with_the_daemon(watches: Watches, watch: Watch, root: Path) -> None:
    """With a line that says so; later ones are refused."""
    watching = await watch(recursive=True)
    watches.stop()
    await watching.until(lambda: watching.ended)
    assert "daemon stops" in watching.told[-1]
    with pytest.raises(UnavailableError, match="daemon stops"):
        await watch()


async def test_fault_of_ours_ends_the_watch(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers are told, the log has the rest, and other watches go on."""
    watching, other = await watch(recursive=True), await watch()
    monkeypatch.setattr(Tree, "_enter", None)
    (root / "d").mkdir()
    await watching.until(lambda: watching.ended)
    assert "log says more" in watching.told[-1]
    assert await other.catch_up() == ["CREATE d"]


async def test_big_directory_that_is_moved_in_is_told_whole(
    watch: Watch, root: Path, tmp_path: Path
) -> None:
    """More entries than are kept for a reader: one that reads on misses none."""
    (tmp_path / "big").mkdir()
    for number in range(40_000):
        (tmp_path / "big" / f"f{number}").symlink_to("x")
    watching = await watch(recursive=True)
    (tmp_path / "big").rename(root / "big")
    lines = await watching.catch_up()
    assert len(lines) == 40_001
    shutil.rmtree(root / "big")
