"""G29: what the workload user cannot read is not told to clients."""

import os
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.watch import Watches
from sandbox_api.errors import FailedError
from tests.core.conftest import let_others_in
from tests.core.watch.conftest import Watch


async def test_g29_directory_of_others_is_refused(
    watch: Watch, root: Path, nobody_threads: FileThreads
) -> None:
    """Also where the daemon's own user watches it already."""
    let_others_in(root.parent)
    os.chmod(root, 0o700)
    owner = Watches(nobody_threads)
    async with owner.open():
        with pytest.raises(FailedError, match="permission denied"):
            await watch(of=owner)
        assert owner.kernel_watches == 0
        with pytest.raises(FailedError, match="permission denied"):
            await watch(root / "x", of=owner)


async def test_g29_unreadable_directories_below_are_left_out(
    watch: Watch, root: Path, nobody_threads: FileThreads
) -> None:
    """Those that are there, and those that come; one that is opened up is followed."""
    let_others_in(root)
    os.chmod(root, 0o777)
    (root / "locked").mkdir(mode=0o700)
    (root / "open").mkdir()
    owner = Watches(nobody_threads)
    async with owner.open():
        watching = await watch(of=owner, recursive=True)
        (root / "late").mkdir(mode=0o700)
        await watching.catch_up()
        for name in ("locked", "late", "open"):
            (root / name / "secret").mkdir()
        assert await watching.catch_up() == ["CREATE late", "CREATE open/secret"]
        (root / "late").chmod(0o755)
        assert (await watching.catch_up())[2:] == ["CHMOD late", "CREATE late/secret"]
        await watching.close()


async def test_g29_rights_are_looked_at_for_each_reader(
    watch: Watch, root: Path, nobody_threads: FileThreads
) -> None:
    """Rights that were taken away meanwhile keep the next one out."""
    let_others_in(root)
    os.chmod(root, 0o755)
    owner = Watches(nobody_threads)
    async with owner.open():
        watching = await watch(of=owner)
        os.chmod(root, 0o700)
        with pytest.raises(FailedError, match="permission denied"):
            await watch(of=owner)
        await watching.close()
