"""Ranking of snippets by their words."""

from pathlib import Path

import pytest

from sandbox_api.core.codegen import bm25
from sandbox_api.core.codegen.snippets import LINES, SnippetSearch


def search(query: str, *roots: Path) -> list[tuple[str, int]]:
    found = SnippetSearch(query, lambda: False).run([str(root) for root in roots])
    return [(Path(one.path).name, one.start) for one in found]


def test_names_are_words() -> None:
    """As programmers write them."""
    assert bm25.words("parseHTTPRequest parse_http_request2 Über") == [
        *("parse", "http", "request"),
        *("parse", "http", "request", "2", "über"),
    ]


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ("authentication", "authenticate"),
        ("connections", "ConnectTo"),
        ("parsing floats", "parseFloat"),
        ("Über", "überall"),
        ("io", "io.open"),
    ],
)
def test_forms_of_a_word_are_one(question: str, code: str) -> None:
    """A question uses another form than the code."""
    terms = bm25.Terms(f"how does {question} work")
    folded = terms.fold(code.encode())
    assert set(terms.count(folded, 0, len(folded))) == set(terms.stems) - {"work"}


def test_a_short_word_is_no_part_of_another() -> None:
    """It would be in every file."""
    assert bm25.Terms("io").count(b"action, audio, io_uring", 0, 99) == {"io": 1}


def test_the_best_piece_comes_first(tmp_path: Path) -> None:
    """Rare words count more than common ones, and several more than one."""
    (tmp_path / "auth.py").write_text("def verify_token(user):\n    return user.token == secret\n")
    (tmp_path / "noise.py").write_text("user = user + user\n" * 30)
    (tmp_path / "other.py").write_text("print('hello')\n")
    assert search("where is the token of a user verified", tmp_path)[0] == ("auth.py", 1)
    assert search("zebra", tmp_path) == []


def test_the_piece_is_where_the_words_are(tmp_path: Path) -> None:
    """Not the whole file."""
    filler = "nothing = 0\n" * LINES
    (tmp_path / "long.py").write_text(filler * 3 + "def frobnicate(): pass\n" + filler)
    assert search("frobnicate", tmp_path) == [("long.py", 3 * LINES + 1)]


def test_a_path_counts(tmp_path: Path) -> None:
    """Its words tell what a file is about."""
    (tmp_path / "billing").mkdir()
    (tmp_path / "billing" / "main.py").write_text("x = 1\n")
    assert search("billing", tmp_path) == [("main.py", 1)]


def test_what_is_ignored_is_left_out(tmp_path: Path) -> None:
    """Hidden, ignored and binary files; and a directory that is named twice counts once."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("out.py\n")
    (tmp_path / "out.py").write_text("frobnicate")
    (tmp_path / ".hidden.py").write_text("frobnicate")
    (tmp_path / "binary").write_bytes(b"frobnicate\0")
    (tmp_path / "in.py").write_text("frobnicate")
    assert search("frobnicate", tmp_path, tmp_path) == [("in.py", 1)]


def test_it_ends_when_it_is_told(tmp_path: Path) -> None:
    """And says that there may be more."""
    (tmp_path / "a.py").write_text("frobnicate")
    one = SnippetSearch("frobnicate", lambda: True)
    assert one.run([str(tmp_path)]) == []
    assert one.truncated
