"""Copies within the kernel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_api.core.ranges import copy_range


@contextmanager
def opened(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    source_fd, target_fd = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    try:
        yield source_fd, target_fd
    finally:
        os.close(source_fd)
        os.close(target_fd)


def test_ranges_stand_one_after_the_other(tmp_path: Path) -> None:
    """The source's own position does not matter, the target's moves on."""
    (tmp_path / "a").write_bytes(b"0123456789")
    with opened(tmp_path / "a", tmp_path / "b") as (source, target):
        os.lseek(source, 7, os.SEEK_SET)
        copy_range(source, target, 8, 2)
        copy_range(source, target, 0, 3)
        copy_range(source, target, 5, 0)
        assert os.lseek(source, 0, os.SEEK_CUR) == 7
    assert (tmp_path / "b").read_bytes() == b"89012"


def test_between_file_systems(tmp_path: Path, small_disk: Path) -> None:
    """Where the kernel cannot share blocks it copies."""
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    with opened(tmp_path / "a", small_disk / "b") as (source, target):
        copy_range(source, target, 0, 100_000)
    assert (small_disk / "b").read_bytes() == b"x" * 100_000


def test_a_source_that_is_too_short(tmp_path: Path) -> None:
    """It is never filled up with zeros."""
    (tmp_path / "a").write_bytes(b"short")
    with (
        opened(tmp_path / "a", tmp_path / "b") as (source, target),
        pytest.raises(OSError, match="became shorter"),
    ):
        copy_range(source, target, 0, 6)
