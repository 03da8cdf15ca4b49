"""What tests of files share: a small disk, and another user."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads, Identity

NOBODY = Identity(65534, 65534, (65534,), "nobody", "/")

# what the kernel makes up: /proc tells 0 as its size, /sys a page
MADE_UP = [
    (str(path), path.read_bytes())
    for path in (Path("/proc/sys/kernel/ostype"), Path("/sys/class/net/lo/mtu"))
    if path.exists()
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(["-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", str(disk)])
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def mount(arguments: list[str]) -> None:
    """Mount, or skip the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def nobody_threads() -> Iterator[FileThreads]:
    """File threads that act as an unprivileged user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    threads = FileThreads(NOBODY)
    yield threads
    threads.close()


@pytest.fixture
def as_nobody(nobody_threads: FileThreads) -> Callable[..., object]:
    """`as_nobody(function, *arguments)`: call it as an unprivileged user."""

    def call(function: Callable[..., object], *arguments: object) -> object:
        return asyncio.run(nobody_threads.run(function, *arguments))

    return call


def let_others_in(directory: Path) -> None:
    """Let other users reach a directory of tests, which are private."""
    for parent in (directory, *directory.parents):
        parent.chmod(parent.stat().st_mode | 0o001)
