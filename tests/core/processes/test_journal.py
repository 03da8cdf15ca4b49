"""The order journal: marks are found, forgotten and never half written."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_api.core.processes.journal import MARK, RENEW_NS, Journal, Kind, Mark, Position

OUT, ERR, END = Kind.STDOUT, Kind.STDERR, Kind.END


def open_journal(path: Path) -> Journal:
    """A journal in a file."""
    return Journal.open(os.open(path, os.O_RDWR | os.O_CREAT))


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file grows over this size: as on a full disk, a write is short, the next one fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_marks_survive_in_the_file(tmp_path: Path) -> None:
    """A journal that is opened again goes on where it ended."""
    journal = open_journal(tmp_path / "order")
    journal.append(Position(), OUT, 1)
    journal.append(Position(5, 0), ERR, 2)
    journal.close()
    journal = open_journal(tmp_path / "order")
    journal.append(Position(5, 3), ERR, 3)  # the same stream, the same time: nothing new
    journal.append(Position(5, 9), END, 4)
    assert journal.read(0) == [
        Mark(Position(), OUT, 1),
        Mark(Position(5, 0), ERR, 2),
        Mark(Position(5, 9), END, 4),
    ]
    journal.close()


def test_a_long_segment_gets_a_mark_with_its_time(tmp_path: Path) -> None:
    """Output of one stream alone still says when it came, ten times a second at most."""
    journal = open_journal(tmp_path / "order")
    for time_ns in (0, RENEW_NS - 1, RENEW_NS, RENEW_NS + 1):
        journal.append(Position(time_ns, 0), OUT, time_ns)
    assert [mark.time_ns for mark in journal.read(0)] == [0, RENEW_NS]
    journal.close()


def test_finds_marks_by_order_and_by_offset(tmp_path: Path) -> None:
    """The last mark at or before a place, however many there are, after forgetting too."""
    journal = open_journal(tmp_path / "order")
    for number in range(1000):
        journal.append(Position(number * 5, number * 5), (OUT, ERR)[number % 2], number)
    assert [journal.find(order) for order in (0, 9, 10, 999 * 10 + 7)] == [0, 0, 1, 999]
    assert journal.find_stream(OUT, 7 * 5 + 4) == 7
    journal.forget(500 * 10)
    assert journal.first == 500
    assert journal.find(3) == 500
    assert journal.read(500, 1)[0].position == Position(2500, 2500)
    journal.close()


def test_g28_a_mark_that_does_not_fit_is_an_error_and_leaves_no_half(tmp_path: Path) -> None:
    """On a full disk a write may be short: that mark is not there, the next try repairs it."""
    journal = open_journal(tmp_path / "order")
    journal.append(Position(), OUT, 1)
    with file_limit(MARK.size + 10):
        for _ in range(2):
            with pytest.raises(OSError, match=r"(No space|File too large)"):
                journal.append(Position(4, 0), ERR, 2)
        assert journal.count == 1
        assert journal.read(0) == [Mark(Position(), OUT, 1)]
    journal.append(Position(6, 0), ERR, 3)
    assert journal.read(0)[1:] == [Mark(Position(6, 0), ERR, 3)]
    journal.close()


def test_g28_held_marks_are_read_and_written_later(tmp_path: Path) -> None:
    """What the disk does not take at the end of a run is in memory, in its place."""
    journal = open_journal(tmp_path / "order")
    journal.append(Position(), OUT, 1)
    with file_limit(MARK.size):
        journal.hold(Position(4, 0), ERR, 2)
        journal.hold(Position(4, 4), END, 3)
        assert [mark.kind for mark in journal.read(0)] == [OUT, ERR, END]
        assert [mark.kind for mark in journal.read(1, 1)] == [ERR]
        assert [mark.kind for mark in journal.read(2)] == [END]
        assert journal.held
    journal.flush()
    assert not journal.held
    journal.close()
    again = open_journal(tmp_path / "order")
    assert [mark.kind for mark in again.read(0)] == [OUT, ERR, END]
    again.close()


def test_keeps_a_bounded_number_of_marks(tmp_path: Path) -> None:
    """A run in memory forgets the older half of its marks, and their space comes back."""
    journal = open_journal(tmp_path / "order")
    for number in range(5000):
        journal.append(Position(number, 0), (OUT, ERR)[number % 2], number)
        journal.keep(1000)
    assert journal.count - journal.first <= 1000
    assert journal.read(journal.count - 1)[0].position == Position(4999, 0)
    assert os.stat(tmp_path / "order").st_blocks * 512 <= 2000 * MARK.size
    journal.close()
