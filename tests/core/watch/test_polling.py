"""Watching by looking again and again."""

import os
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.local import is_shared
from sandbox_api.core.watch import Watches, WatchSpec, polling
from sandbox_api.errors import FailedError
from tests.core.conftest import let_others_in
from tests.core.watch.conftest import Watch, Watching


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once."""
    defaults = polling.PolledTree.__init__.__defaults__
    assert defaults == (1.0,)
    monkeypatch.setattr(polling.PolledTree.__init__, "__defaults__", (0.01,))
    monkeypatch.setattr(polling, "MAX_SHARE", 1.0)


async def test_g24_changes_are_told(watch: Watch, root: Path) -> None:
    """As the kernel's, but a rename is a REMOVE and a CREATE; what is below is told, too."""
    (root / "sub" / "a").mkdir(parents=True)
    (root / "sub" / "f").write_text("1")
    watching = await watch(poll=True, recursive=True)
    (root / "sub" / "f").write_text("2")
    await watching.until(lambda: watching.told == ["WRITE sub/f"])
    (root / "sub" / "f").chmod(0o600)
    await watching.until(lambda: watching.told[1:] == ["CHMOD sub/f"])
    (root / "sub").rename(root / "to")
    await watching.until(lambda: len(watching.told) == 8)
    assert set(watching.told[2:5]) == {"REMOVE sub/a", "REMOVE sub/f", "REMOVE sub"}
    assert watching.told[4:6] == ["REMOVE sub", "CREATE to"]
    assert set(watching.told[6:]) == {"CREATE to/a", "CREATE to/f"}


async def test_two_writes_in_one_second_are_both_told(watch: Watch, root: Path) -> None:
    """Times are compared to the nanosecond, and sizes too."""
    (root / "f").touch()
    watching = await watch(poll=True)
    for number in range(3):
        (root / "f").write_text("x" * number)
        await watching.until(partial(_has_told, watching, number + 1))
    assert watching.told == ["WRITE f"] * 3


def _has_told(watching: Watching, count: int) -> bool:
    return len(watching.told) >= count


async def test_plain_watch_and_ignored_paths(watch: Watch, root: Path) -> None:
    """What is below and what is ignored is not looked at; names of ours are hidden."""
    (root / "sub").mkdir()
    watching = await watch(poll=True, ignore=["skip"])
    (root / "sub" / "f").touch()
    (root / "skip").touch()
    (root / ".sandbox-api-x").touch()
    (root / os.fsdecode(b"\xff")).touch()
    await watching.until(lambda: watching.told)
    assert await watching.catch_up() == [os.fsdecode(b"CREATE \xff")]


async def test_links_are_not_followed(watch: Watch, root: Path, tmp_path: Path) -> None:
    """A link is an entry; where it leads to is another directory's business."""
    (tmp_path / "other").mkdir()
    (root / "link").symlink_to(tmp_path / "other")
    (root / "loop").symlink_to(root)
    watching = await watch(poll=True, recursive=True)
    (tmp_path / "other" / "f").touch()
    assert await watching.catch_up() == []


async def test_g24_removal_ends_it(watch: Watch, root: Path) -> None:
    """With the same last lines as the kernel's."""
    watching = await watch(poll=True, recursive=True)
    (root / "f").touch()
    await watching.until(lambda: watching.told)
    shutil.rmtree(root)
    await watching.until(lambda: watching.ended)
    assert watching.told[-2] == "REMOVE ."
    assert "was removed" in watching.told[-1]


async def test_too_much_to_look_at_is_refused(
    watch: Watch, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends a watch that grows beyond it, with a text that says what to do."""
    monkeypatch.setattr(polling, "MAX_ENTRIES", 3)
    watching = await watch(poll=True, recursive=True)
    for number in range(4):
        (root / f"f{number}").touch()
    await watching.until(lambda: watching.ended)
    assert "more than 3 entries" in watching.told[-1]
    with pytest.raises(FailedError, match="watch a smaller directory"):
        await watch(poll=True, recursive=True)


@pytest.fixture
async def nobodys(nobody_threads: FileThreads) -> AsyncIterator[Watches]:
    owner = Watches(nobody_threads)
    async with owner.open():
        yield owner


async def test_g29_looks_have_the_users_rights(watch: Watch, root: Path, nobodys: Watches) -> None:
    """What cannot be read is left out below, and refused at the top."""
    let_others_in(root)
    os.chmod(root, 0o777)
    (root / "locked").mkdir(mode=0o700)
    watching = await watch(of=nobodys, poll=True, recursive=True)
    (root / "locked" / "secret").touch()
    assert await watching.catch_up() == []
    os.chmod(root, 0o711)
    with pytest.raises(FailedError, match="permission denied"):
        await watch(of=nobodys, poll=True)
    await watching.close()


async def test_shared_file_systems_are_polled(
    watches: Watches, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network or FUSE mount is follows from its type; the client may say otherwise."""
    assert not is_shared(str(root))
    monkeypatch.setattr("sandbox_api.core.watch.watches.is_shared", lambda _: True)
    async with watches.watch(WatchSpec(str(root))):
        assert watches.kernel_watches == 0
    async with watches.watch(WatchSpec(str(root), poll=False)):
        assert watches.kernel_watches == 1


@pytest.mark.parametrize(
    ("magic", "same_device", "shared"),
    [
        (0x6969, False, True),
        (0x65735546, False, True),
        (0x65735546, True, False),
        (0xEF53, False, False),
    ],
)
def test_root_file_system_is_never_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, same_device: bool, shared: bool
) -> None:
    """A sandbox whose root is a FUSE or network file system is the only one to change it."""
    monkeypatch.setattr("sandbox_api.core.linux.file_system_type", lambda _: magic)
    stat = os.stat

    class Status:
        def __init__(self, path: str) -> None:
            self.st_dev = 1 if same_device or path == "/" else stat(path).st_dev

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", Status)
        found = is_shared(str(tmp_path))
    assert found == shared
