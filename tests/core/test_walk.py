"""The walk that trees, archives and searches share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.core import walk as walk_module
from sandbox_api.core.walk import Walk, WalkScope, by_name
from tests.core.conftest import let_others_in


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def walked(root: Path, scope: WalkScope | None = None) -> list[str]:
    return [os.path.relpath(entry.path, root) for entry in Walk(str(root), scope)]


def test_walk_order(tmp_path: Path) -> None:
    """Depth first and bytewise by name, each directory before what is in it."""
    make(tmp_path, "b/x", "b/a/y", "a", "c", "B", "é", "z")
    (tmp_path / os.fsdecode(b"\xff")).touch()
    expected = ["B", "a", "b", "b/a", "b/a/y", "b/x", "c", "z", "é", os.fsdecode(b"\xff")]
    assert walked(tmp_path) == expected


def test_walk_follows_no_links(tmp_path: Path) -> None:
    """A link is shown; a loop of links ends nowhere but here."""
    make(tmp_path, "d/f")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "d" / "up").symlink_to("..")
    assert walked(tmp_path) == ["d", "d/f", "d/up", "loop"]


def test_walk_scope(tmp_path: Path) -> None:
    """Excluded directories are neither shown nor entered; the start is never left out."""
    root = tmp_path / ".node_modules"
    make(root, "node_modules/x", "a/node_modules/y", "a/b", ".git/z", ".hidden", "c")
    make(root, "d/node_modules")  # a file of that name
    scope = WalkScope(frozenset({"node_modules", ".node_modules"}), exclude_hidden=True)
    assert walked(root, scope) == ["a", "a/b", "c", "d", "d/node_modules"]
    assert ".git/z" in walked(root, WalkScope(frozenset({"node_modules"})))


def test_walk_hides_what_is_reserved(tmp_path: Path) -> None:
    """A write under way is not seen."""
    make(tmp_path, ".sandbox-api-1", "a/.sandbox-api-2", "a/b")
    assert walked(tmp_path) == ["a", "a/b"]


def test_walk_counts_what_cannot_be_read(tmp_path: Path, as_nobody: Callable[..., object]) -> None:
    """A closed directory is shown and skipped; a closed start is an error."""
    make(tmp_path, "closed/x", "open/y")
    (tmp_path / "closed").chmod(0o700)
    let_others_in(tmp_path)
    tmp_path.chmod(0o755)
    walk = Walk(str(tmp_path))
    assert as_nobody(lambda: [entry.name for entry in walk]) == ["closed", "open", "y"]
    assert walk.unreadable == 1
    with pytest.raises(PermissionError):
        as_nobody(list, Walk(str(tmp_path / "closed")))


def test_walk_leaves_the_kernels_own_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system such as /proc is shown, and entered only by whoever begins there."""
    make(tmp_path, "a/x", "b/x", "b/a/y")
    mounted = {str(tmp_path / "a"), str(tmp_path / "b")}
    monkeypatch.setattr(walk_module, "kernel_mounts_below", lambda path: mounted - {path})
    assert [entry.name for entry in Walk(str(tmp_path))] == ["a", "b"]
    assert [entry.name for entry in Walk(str(tmp_path / "b"))] == ["a", "y", "x"]


def test_walk_runs(tmp_path: Path) -> None:
    """A directory alone, and what is none side by side."""
    make(tmp_path, "a", "b", "c/x", "d")
    (tmp_path / "e").mkdir()
    runs = [(directory, [e.name for e in run]) for directory, run in Walk(str(tmp_path)).runs()]
    assert runs == [
        (False, ["a", "b"]),
        (True, ["c"]),
        (False, ["x"]),
        (False, ["d"]),
        (True, ["e"]),
    ]


def test_walk_can_be_stopped(tmp_path: Path) -> None:
    """Whoever wants no more gets no more, within a large directory too."""
    make(tmp_path, *(f"{n}" for n in range(3000)))
    make(tmp_path, "d/e/f")
    asked = iter([False, False, True])
    assert len(list(Walk(str(tmp_path), stopped=lambda: next(asked, True)))) < 3000
    assert list(Walk(str(tmp_path), stopped=lambda: True)) == []


def test_large_directories_are_sorted(tmp_path: Path) -> None:
    """More entries than are sorted at once come in the same order."""
    names = [f"{n * 7919 % 10007:05}" for n in range(10000)]
    make(tmp_path, *names)
    with os.scandir(tmp_path) as scan:
        entries = list(scan)
    assert [entry.name for entry in by_name(entries)] == sorted(names)
    assert entries == []
