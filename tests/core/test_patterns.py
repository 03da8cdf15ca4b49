"""Shell patterns on names."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.patterns import compile_patterns


def fits(name: str, *patterns: str) -> bool:
    compiled = compile_patterns(patterns)
    assert compiled is not None
    return compiled.fit(name.rpartition("/")[2], name)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.py", "a.py", True),
        ("*.py", "a.pyc", False),
        ("*.py", "A.PY", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a]x", "bx", True),
        (r"[\]]", "]", True),
        (r"\*", "*", True),
        (r"\*", "x", False),
        ("a.b", "axb", False),
        ("*\n*", "x\ny", True),
        ("*a*b*", "xxaxxbxx", True),
        ("*ab", "abab", True),
        ("", "", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    """What each sign means; the whole name must fit."""
    assert fits(name, pattern) is expected


@pytest.mark.parametrize("pattern", ["[", "[]", "[z-a]", "\\"])
def test_malformed_patterns_fit_nothing(pattern: str) -> None:
    """A typing error is no match, and no failure."""
    assert not any(fits(name, pattern) for name in ("", "[", "a", "\\"))
    assert fits("a.py", pattern, "*.py")


def test_no_patterns_is_no_condition() -> None:
    """Whoever asks for nothing gets all."""
    assert compile_patterns(()) is None


@pytest.mark.timeout(10)
def test_patterns_take_no_exponential_time() -> None:
    """A pattern of many stars cannot hold up a search."""
    assert not fits("a" * 255, "*a" * 40 + "b")


@given(pattern=st.text("ab*?."), name=st.text("ab."))
def test_patterns_are_those_of_the_shell(pattern: str, name: str) -> None:
    """Stars and question marks mean what they mean everywhere."""
    assert fits(name, pattern) is fnmatch.fnmatchcase(name, pattern)
