"""What is mounted, and whose sizes say nothing."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.core.mounts import (
    MAX_MADE_UP_BYTES,
    is_made_up,
    kernel_mounts_below,
    mounts,
    read_made_up,
)
from sandbox_api.core.walk import Walk
from tests.core.conftest import mount

STRANGE = os.fsdecode(b"a b\t\\\n\xff")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    """A second /proc, in a directory of a name that mountinfo has to escape."""
    point = tmp_path / "root" / STRANGE / "proc"
    point.mkdir(parents=True)
    mount(["-t", "proc", "proc", str(point)])
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_mounts(proc: Path) -> None:
    """Each has its device and its name, whatever is in that."""
    found = {mount.point: mount for mount in mounts()}
    assert found["/"].device == os.stat("/").st_dev
    assert (found[str(proc)].device, found[str(proc)].kind) == (os.stat(proc).st_dev, "proc")
    assert found[str(proc)].of_the_kernel
    assert not found["/"].of_the_kernel


def test_a_walk_does_not_enter_what_the_kernel_makes_up(proc: Path, tmp_path: Path) -> None:
    """A walk over `/` shows /proc and ends; who begins in it gets it."""
    (tmp_path / "link").symlink_to("root")
    for root in (tmp_path / "root", tmp_path / "link"):
        shown = root / STRANGE / "proc"
        assert kernel_mounts_below(str(root)) == {str(shown)}
        assert [entry.path for entry in Walk(str(root))] == [str(shown.parent), str(shown)]
    assert kernel_mounts_below(str(proc)) == frozenset()
    assert str(proc / "sys" / "kernel") in (entry.path for entry in Walk(str(proc / "sys")))
    assert "/proc" in kernel_mounts_below("/")


def test_endless_content_is_refused(tmp_path: Path) -> None:
    """What has no end, as /proc/kcore in effect, does not fill the memory or the disk."""
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MAX_MADE_UP_BYTES + 1)
    for path in ("/dev/zero", tmp_path / "large"):
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(OSError, match="File too large"):
            read_made_up(fd)
        os.close(fd)
    os.truncate(tmp_path / "large", MAX_MADE_UP_BYTES)
    with (tmp_path / "large").open("rb") as file:
        assert len(read_made_up(file.fileno())) == MAX_MADE_UP_BYTES


def test_made_up(tmp_path: Path) -> None:
    """By what a file holds it cannot be told: one of zeros has no blocks on a disk either."""
    (tmp_path / "empty").touch()
    (tmp_path / "small").write_text("x")
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 30)
    for path, expected in (
        ("/proc/uptime", True),
        ("/sys/class/net/lo/mtu", True),
        (tmp_path / "empty", True),
        (tmp_path / "small", False),
        (tmp_path / "hole", False),
    ):
        if os.path.exists(path):
            assert is_made_up(os.stat(path)) == expected, path
