"""A stream's bytes: whole on every file system, held on a full disk, cut at the head."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from sandbox_api.core.processes.logfile import LogFile, has_ended, pending_bytes


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """A pipe, its end for reading non-blocking."""
    fds = [*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)]
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    """A log without a bound."""
    log = LogFile(lambda: os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT), None)
    yield log
    log.close()


def test_takes_bytes_and_reads_them_by_offset(log: LogFile, pipe: list[int]) -> None:
    """What was taken is there; a read is short only at the end."""
    os.write(pipe[1], b"hello world")
    assert log.take(pipe[0], 5) == 5
    assert log.take(pipe[0], 100) == 6
    assert log.read(6, 100) == b"world"
    assert log.read(11, 1) == b""
    with pytest.raises(BlockingIOError):
        log.take(pipe[0], 1)


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_splice(log: LogFile, pipe: list[int], reason: int) -> None:
    """Where the kernel cannot splice into a file (some FUSE and 9p mounts), bytes are copied."""
    os.write(pipe[1], b"first second")
    with patch("os.splice", side_effect=OSError(reason, "no splice")) as splice:
        assert log.take(pipe[0], 6) == 6
        assert log.take(pipe[0], 100) == 6
    assert splice.call_count == 1
    assert log.read(0, 100) == b"first second"


def test_other_errors_of_splice_are_told(log: LogFile, pipe: list[int]) -> None:
    """A full disk is not taken for a missing feature: the bytes stay in the pipe."""
    os.write(pipe[1], b"kept")
    full = OSError(errno.ENOSPC, "full")
    with patch("os.splice", side_effect=full), pytest.raises(OSError, match="full"):
        log.take(pipe[0], 6)
    assert pending_bytes(pipe[0]) == 4


def test_g28_bytes_that_the_disk_does_not_take_are_held(log: LogFile, pipe: list[int]) -> None:
    """Held bytes are read like others, nothing new goes before them, and they reach the disk."""
    full = patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "full"))
    os.write(pipe[1], b"one")
    log.take(pipe[0], 100)
    with full:
        log.append(b" two")
        os.write(pipe[1], b" three four")
        assert log.hold(pipe[0], 6) == 6
        assert log.hold(pipe[0], 0) == 0
        assert log.read(0, 100) == b"one two three"
        assert log.read(4, 5) == b"two t"
        with pytest.raises(OSError, match="full"):
            log.take(pipe[0], 100)
    log.take(pipe[0], 100)
    assert log.read(0, 100) == b"one two three four"
    log.release()
    assert log.read(0, 100) == b"one two three four"


def test_cut_gives_space_back_in_whole_pages(log: LogFile, pipe: list[int], tmp_path: Path) -> None:
    """Offsets stay, the head's blocks go."""
    for _ in range(16):
        os.write(pipe[1], b"x" * 4096)
        log.take(pipe[0], 1 << 20)
    before = os.stat(tmp_path / "log").st_blocks
    log.cut(8 * 4096 + 5)
    assert log.start == 8 * 4096
    assert log.size == 16 * 4096
    assert os.stat(tmp_path / "log").st_blocks <= before // 2
    log.cut(0)
    assert log.start == 8 * 4096
    assert log.read(log.start, 2) == b"xx"


def test_a_bounded_log_keeps_its_newest_bytes(pipe: list[int]) -> None:
    """In memory a stream holds between one and two times its bound, and the newest of it."""
    log = LogFile(lambda: os.memfd_create("log"), 8192)
    for number in range(100):
        os.write(pipe[1], b"%04d" % number * 1024)
        log.take(pipe[0], 1 << 20)
        assert log.size - log.start <= 2 * 8192
    assert log.start > 0
    assert log.read(log.size - 4, 4) == b"0099"
    log.close()


def test_the_end_of_a_pipe_is_not_its_emptiness(pipe: list[int]) -> None:
    """Empty with a writer, full without one, and both: only the last has ended."""
    write_fd = os.dup(pipe[1])
    os.close(pipe[1])
    pipe[1] = os.open("/dev/null", os.O_RDONLY)
    assert not has_ended(pipe[0])
    os.write(write_fd, b"x")
    os.close(write_fd)
    assert not has_ended(pipe[0])
    os.read(pipe[0], 10)
    assert has_ended(pipe[0])
