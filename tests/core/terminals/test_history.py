"""The last output of a terminal, and where a replay of it begins."""

from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.terminals.history import LINE_SEARCH_BYTES, History


@given(chunks=st.lists(st.binary(max_size=40), max_size=20), most=st.integers(1, 60))
def test_it_is_the_end_of_all_that_came(chunks: list[bytes], most: int) -> None:
    """Every byte keeps its number, and no more than the limit is kept."""
    history, all_of_it = History(most), b"".join(chunks)
    for chunk in chunks:
        history.append(chunk)
    assert history.end == len(all_of_it)
    assert history.end - history.start == min(len(all_of_it), most)
    assert history.read(history.start, most) == all_of_it[history.start :]


def test_a_short_output_is_replayed_whole() -> None:
    """Nothing is cut where nothing has to be."""
    history = History()
    history.append(b"one\ntwo")
    assert history.begin() == 0


def test_a_replay_begins_with_a_line() -> None:
    """Half a line, or half a control sequence, would be drawn as rubbish."""
    history = History(100)
    history.append(b"x" * 80 + b"\nline two\nline three\n")
    assert history.read(history.begin(30), 100) == b"line two\nline three\n"


def test_a_replay_without_lines_begins_with_a_character() -> None:
    """A character that lost its first byte would be drawn as one that is unknown."""
    history = History(10 * LINE_SEARCH_BYTES)
    history.append("é".encode() * 10 * LINE_SEARCH_BYTES)
    data = history.read(history.begin(2 * LINE_SEARCH_BYTES - 1), 10 * LINE_SEARCH_BYTES)
    assert data.decode() == "é" * (LINE_SEARCH_BYTES - 1)
