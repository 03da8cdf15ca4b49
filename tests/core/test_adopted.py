"""A file that was put together elsewhere takes its target's place, or stays."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.core.adopted import AdoptedFile
from sandbox_api.errors import FailedError
from tests.core.conftest import let_others_in

DATA = b"x" * 300_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    path.chmod(0o600)
    return path


def adopt(source: Path, target: Path, mode: int = 0o640) -> None:
    """Let the target have the source's bytes."""
    file = AdoptedFile(str(target), str(source), os.open(source, os.O_RDWR))
    try:
        file.commit(mode)
    finally:
        file.discard()


def test_new_target_in_a_new_directory(tmp_path: Path, source: Path) -> None:
    """It is moved, not copied, with the mode of a new file."""
    inode = source.stat().st_ino
    adopt(source, tmp_path / "a/b")
    assert (tmp_path / "a/b").stat().st_ino == inode
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_existing_target_keeps_its_mode(tmp_path: Path, source: Path) -> None:
    """As any write does."""
    (tmp_path / "t").write_bytes(b"old")
    (tmp_path / "t").chmod(0o604)
    adopt(source, tmp_path / "t")
    assert (tmp_path / "t").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o604


@pytest.mark.parametrize("existing", [True, False])
def test_another_file_system(small_disk: Path, source: Path, existing: bool) -> None:
    """A copy is made beside the target, so the change is whole there too; the source stays."""
    target = small_disk / "t"
    if existing:
        target.write_bytes(b"old")
        target.chmod(0o600)
    inode = target.stat().st_ino if existing else 0
    adopt(source, target)
    assert target.read_bytes() == DATA
    assert target.stat().st_ino != inode
    assert stat.S_IMODE(target.stat().st_mode) == (0o600 if existing else 0o640)
    assert os.listdir(small_disk) == ["t"]
    assert source.read_bytes() == DATA


def test_a_full_file_system(small_disk: Path, source: Path) -> None:
    """What was there is still there, and so is the source."""
    (small_disk / "t").write_bytes(b"old")
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(FailedError, match="no space left on device"):
        adopt(source, small_disk / "t")
    assert (small_disk / "t").read_bytes() == b"old"
    assert sorted(os.listdir(small_disk)) == ["other", "t"]
    assert source.exists()


def test_a_device_gets_the_bytes(source: Path) -> None:
    """It is never replaced."""
    adopt(source, Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert source.exists()


def test_a_refused_target_leaves_the_source(tmp_path: Path, source: Path) -> None:
    """So the upload can be completed elsewhere or later."""
    (tmp_path / "d").mkdir()
    with pytest.raises(FailedError, match="is a directory"):
        adopt(source, tmp_path / "d")
    assert source.read_bytes() == DATA


def test_an_owner_without_rights(
    tmp_path: Path, source: Path, as_nobody: Callable[..., object]
) -> None:
    """The kernel decides, for the user who asks."""
    let_others_in(tmp_path)
    (tmp_path / "t").write_bytes(b"old")
    fd = os.open(source, os.O_RDWR)
    file = AdoptedFile(str(tmp_path / "t"), str(source), fd)
    with pytest.raises(FailedError, match="permission denied"):
        as_nobody(file.commit)
    file.discard()
    assert (tmp_path / "t").read_bytes() == b"old"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
