"""What `.gitignore` files leave out."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox_api.core.walk import Walk, WalkScope

FILES = (
    *("a.log", "keep.log", "src/a.log", "src/b.py", "src/gen/x.py", "src/gen/keep/y.py"),
    *("out/x", "docs/out/y", "docs/out.txt", "deep/a/b/c.tmp", "deep/c.tmp", "#note", " space"),
    *("tail ", "top.cfg", "src/top.cfg", "data/1.csv", "data/sub/2.csv", "x1.bin", "x2.bin"),
    *("nested/.hidden/z", "nested/skip/q", "nested/more/skip/q", "café.md", "[odd]", "!bang"),
)
# {} is nothing: it keeps the blank at the end of a line from editors
RULES = r"""
# a comment
*.log
!keep.log
/out/
/top.cfg
src/gen/*
!src/gen/keep
deep/**/c.tmp
data/**
!data/sub
\#note
tail\ {}
x[!2].bin
caf*.md
\[odd\]
\!bang
**/never/**
[z-a]
"""
NESTED = "skip/\n!/more/skip/\n.hidden\n"


def build(root: Path) -> None:
    for name in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / ".gitignore").write_text(RULES.replace("{}", ""))
    (root / "nested/.gitignore").write_text(NESTED)


def shown(root: Path) -> set[str]:
    walk = Walk(str(root), WalkScope(gitignore=True))
    return {os.path.relpath(e.path, root) for e in walk if not e.is_dir(follow_symlinks=False)}


def test_as_git_does(tmp_path: Path) -> None:
    """git itself is the oracle."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    build(tmp_path)
    git = ["git", "-c", "core.excludesFile=", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / ".git/info/exclude").write_text("src/b.py\n")
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True
    )
    names = set(listed.stdout.decode().split("\0")[:-1])
    assert {"keep.log", "src/gen/keep/y.py", "nested/more/skip/q", "docs/out/y"} <= names
    assert shown(tmp_path) == names
    within = {name.removeprefix("src/") for name in names if name.startswith("src/")}
    assert shown(tmp_path / "src") == within


def test_without_a_repository(tmp_path: Path) -> None:
    """The files below the start count all the same; nothing of git is needed."""
    build(tmp_path)
    names = shown(tmp_path)
    assert {"keep.log", "src/b.py", "nested/more/skip/q"} <= names
    assert not {"a.log", "src/a.log", "out/x", "nested/skip/q"} & names


def test_files_that_are_none(tmp_path: Path) -> None:
    """A fifo or a directory of that name holds up nobody and says nothing."""
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / ".gitignore")
    (tmp_path / "d/.gitignore").mkdir(parents=True)
    assert "a" in shown(tmp_path)


@pytest.mark.timeout(20)
def test_hostile_rules(tmp_path: Path) -> None:
    """Whoever writes a `.gitignore` cannot hold up a search with it."""
    (tmp_path / ("a" * 250)).touch()
    (tmp_path / ".gitignore").write_text("*a" * 100 + "b\n" + "**/*a*/" * 50 + "b\n")
    assert len(shown(tmp_path)) == 2
