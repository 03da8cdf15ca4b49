"""Finding by name."""

import os
from pathlib import Path

import pytest

from sandbox_api.core.searches.find import FindQuery, find
from sandbox_api.core.searches.until import Outcome, Until
from sandbox_api.core.walk import WalkScope
from tests.core.searches.conftest import make

ENDLESS_S = 1000.0


def found(root: Path, **query: object) -> list[str]:
    return [match.path for match in outcome(root, **query).matches]


def outcome(root: Path, **query: object) -> Outcome:
    return find(str(root), FindQuery(**query), Until(ENDLESS_S))  # type: ignore[arg-type]


def test_files_and_directories(tmp_path: Path) -> None:
    """Everything that is no directory is a file; a directory search begins with the start."""
    make(tmp_path, {"b/c.py": "", "a.py": "", "b/d/e.txt": ""})
    (tmp_path / "link").symlink_to("b")
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path) == ["a.py", "b/c.py", "b/d/e.txt", "link", "pipe"]
    assert found(tmp_path, directories=True) == [".", "b", "b/d"]
    assert found(tmp_path, directories=True, patterns=["*.py"]) == [".", "b", "b/d"]


def test_patterns_on_names_and_paths(tmp_path: Path) -> None:
    """A pattern with a slash is one for the path below the start."""
    make(tmp_path, {"x.py": "", "src/x.py": "", "src/a/x.ts": "", "src/a/b/x.tsx": ""})
    assert found(tmp_path, patterns=["*.py"]) == ["src/x.py", "x.py"]
    assert found(tmp_path, patterns=["src/*.py"]) == ["src/x.py"]
    assert found(tmp_path, patterns=["**/a/**/*.{ts,tsx}"]) == ["src/a/b/x.tsx", "src/a/x.ts"]


def test_limit(tmp_path: Path) -> None:
    """`truncated` says whether there was more, not whether the limit was reached."""
    make(tmp_path, {f"{n}.py": "" for n in range(5)})
    some = outcome(tmp_path, limit=4)
    assert ([match.path for match in some.matches], some.truncated) == (
        ["0.py", "1.py", "2.py", "3.py"],
        True,
    )
    assert not outcome(tmp_path, limit=5).truncated
    assert not outcome(tmp_path).truncated


def test_a_start_that_is_no_directory(tmp_path: Path) -> None:
    """It is its own only match; a link is not followed."""
    make(tmp_path, {"d/a.py": ""})
    (tmp_path / "link").symlink_to("d")
    for start in ("d/a.py", "link"):
        assert found(tmp_path / start) == ["."]
        assert found(tmp_path / start, directories=True) == []
    assert found(tmp_path / "d/a.py", patterns=["*.py"]) == ["."]
    assert found(tmp_path / "d/a.py", patterns=["*.ts"]) == []


def test_the_start_is_never_left_out(tmp_path: Path) -> None:
    """Whoever searches a hidden or an excluded directory means it (spec/filesystem.md 15, 28)."""
    make(tmp_path, {".git/build/a": "", ".git/b": ""})
    scope = WalkScope(frozenset({".git", "build"}), exclude_hidden=True)
    assert found(tmp_path / ".git", scope=scope) == ["b"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They are shown with replacements and told as bytes."""
    (tmp_path / os.fsdecode(b"\xff.py")).touch()
    (match,) = outcome(tmp_path, patterns=["?.py"]).matches
    assert (match.path, match.raw_path) == ("\ufffd.py", b"\xff.py")


def test_time_that_is_over(tmp_path: Path) -> None:
    """What was found by then is told, and that there may be more."""
    make(tmp_path, {"a": ""})
    none = find(str(tmp_path), FindQuery(), Until(0))
    assert (none.matches, none.truncated, none.timed_out) == ([], True, True)


def test_a_missing_start(tmp_path: Path) -> None:
    """There is nothing to search."""
    with pytest.raises(FileNotFoundError):
        outcome(tmp_path / "nope")
