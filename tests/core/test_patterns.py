"""Shell patterns on names."""

import fnmatch
from contextlib import suppress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.patterns import MOST_PATTERNS, compile_patterns, split_patterns
from sandbox_api.errors import InvalidError


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
        ("[!a]x", "bx", True),
        ("*.py", "src/a.py", True),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/b/a.py", False),
        ("/src/*.py", "src/a.py", True),
        ("./src/*.py", "src/a.py", True),
        ("src/?.py", "src//.py", False),
        ("src[^a]x", "src/x", False),
        ("**/a.py", "a.py", True),
        ("**/a.py", "x/y/a.py", True),
        ("**/y/**/a.py", "x/y/z/a.py", True),
        ("**/y/**/a.py", "y/a.py", True),
        ("src/**", "src/x/y", True),
        ("src/**", "src", False),
        ("a**b/c", "axxb/c", True),
        ("*.{ts,tsx}", "a.tsx", True),
        ("{a,b{c,d}}.py", "bd.py", True),
        ("{a,b{c,d}}.py", "b.py", False),
        ("{src,lib}/**/*.py", "lib/x/a.py", True),
        ("{a}", "{a}", True),
        ("a{b", "a{b", True),
        (r"\{a,b\}", "{a,b}", True),
        ("{,x}a", "a", True),
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


def test_lists_know_braces() -> None:
    """A comma within braces that close belongs to its pattern."""
    assert split_patterns(" *.{ts,tsx} , a,, {b,{c,d}}") == ("*.{ts,tsx}", "a", "{b,{c,d}}")
    assert split_patterns("a{b,c") == ("a{b", "c")
    assert split_patterns("a}b,c{") == ("a}b", "c{")
    assert split_patterns("") == ()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "pattern", ["{a,b}" * 12, "a" * 5000, "{" * 2000 + "," * 500 + "}" * 1000, "{" * 4000]
)
def test_patterns_are_bounded(pattern: str) -> None:
    """Braces of braces are refused before they fill the memory, whatever they look like."""
    with suppress(InvalidError):
        compile_patterns(split_patterns(pattern))
    with pytest.raises(InvalidError, match="more than"):
        compile_patterns(["x"] * (MOST_PATTERNS + 1))


@pytest.mark.timeout(10)
def test_paths_take_no_exponential_time() -> None:
    """Neither can a pattern of many directories."""
    assert not fits("a/" * 2000 + "a", "**/a/" * 40 + "b")
    assert not fits("a/" * 2000 + "a", "**/*a*/" * 40 + "b")


def segments_fit(pattern: list[str], path: list[str]) -> bool:
    """Whether segments fit a pattern's, tried in every way."""
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        if not rest:
            return bool(path)
        return any(segments_fit(rest, path[skipped:]) for skipped in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], first) and segments_fit(rest, path[1:])


@given(
    pattern=st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "*a*b"]), min_size=2, max_size=5),
    path=st.lists(st.sampled_from(["a", "b", "ab", "aab"]), min_size=1, max_size=5),
)
def test_paths_fit_as_their_segments_do(pattern: list[str], path: list[str]) -> None:
    """The one expression finds what trying everything finds."""
    assert fits("/".join(path), "/".join(pattern)) is segments_fit(pattern, path)


@given(
    parts=st.lists(st.lists(st.text("ab", max_size=2), min_size=2, max_size=3), max_size=3),
    name=st.text("ab", max_size=6),
)
def test_braces_are_a_choice(parts: list[list[str]], name: str) -> None:
    """Braces mean what all that they stand for means."""
    pattern = "".join("{" + ",".join(part) + "}" for part in parts)
    assert fits(name, pattern) is (name in {"".join(choice) for choice in product(*parts)})
