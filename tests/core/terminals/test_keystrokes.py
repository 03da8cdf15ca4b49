"""Command lines in what is typed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.terminals.keystrokes import MAX_LINE_BYTES, Keystrokes


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        (b"ls -l\r", ["ls -l"]),
        (b"  ls \n\r\n", ["ls"]),
        (b"lx\x7fs\x08s\r", ["ls"]),
        (b"\x7f\x7fa\r", ["a"]),
        (b"a\x1b[1;5Cb\x1b[200~c\r", ["abc"]),
        (b"\x1b]0;title\x07a\x1b]x\x1b\\b\r", ["ab"]),
        (b"\x1bfa\r", ["a"]),
        (b"a\x03b\r", ["ab"]),
        ("über\r".encode(), ["über"]),
        (b"one\rtwo\rthree", ["one", "two"]),
    ],
)
def test_lines(typed: bytes, lines: list[str]) -> None:
    """Erased characters and control sequences are no part of a line (spec/system.md 4)."""
    assert Keystrokes().type(typed) == lines


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_where_it_is_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    """Keys come in messages of any size."""
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    piecewise = Keystrokes()
    lines = [line for begin, end in pairwise(places) for line in piecewise.type(data[begin:end])]
    assert lines == Keystrokes().type(data)


def test_a_line_is_bounded() -> None:
    """A file that is pasted is no line of megabytes."""
    (line,) = Keystrokes().type(b"x" * 10 * MAX_LINE_BYTES + b"\r")
    assert len(line) == MAX_LINE_BYTES
