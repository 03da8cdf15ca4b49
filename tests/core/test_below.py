"""Names that must stay below a directory."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.below import Below, relative_name
from sandbox_api.errors import FailedError

NAMES = st.lists(st.sampled_from(["a", "bb", ".", "..", "", "é"]), max_size=8)


@given(parts=NAMES)
def test_relative_names_never_lead_out(parts: list[str]) -> None:
    """What climbs is refused, all else means what the path means."""
    name = "/".join(parts)
    if os.path.normpath("./" + name).startswith(".."):
        with pytest.raises(FailedError, match="leads out"):
            relative_name(name)
    else:
        assert os.path.join("/root", relative_name(name)).rstrip("/") == os.path.normpath(
            f"/root/./{name}"
        )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a\0b", "NUL"),
        ("a/.sandbox-api-1/b", "reserved"),
        ("é" * 128, "too long"),
        ("a/../..", "leads out"),
    ],
)
def test_impossible_names(name: str, text: str) -> None:
    """Each is refused for its own reason."""
    with pytest.raises(FailedError, match=text):
        relative_name(name)


def test_g25_links_may_not_lead_out(tmp_path: Path) -> None:
    """A link that stays below is followed, as a directory or as the file; others are refused."""
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "in").symlink_to("real")
    (root / "out").symlink_to(tmp_path)
    (root / "up").symlink_to("real/../..")
    (root / "real" / "file").symlink_to("../made")
    (root / "real" / "escape").symlink_to(tmp_path / "x")
    below = Below(str(root))
    assert below.target("in/new") == str(root / "real" / "new")
    assert below.target("in/file") == str(root / "made")
    assert below.target("in/deep/er/new") == str(root / "real" / "deep" / "er" / "new")
    for name in ("out/x", "up/x", "real/escape", "out/deep/x"):
        with pytest.raises(FailedError, match="leads out"):
            below.target(name)


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    """The directory may be reached through a link; `/` is a directory like any other."""
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    assert Below(str(tmp_path / "root")).target("a") == str(tmp_path / "real" / "a")
    assert Below("/").target("a-name-of-nothing") == "/a-name-of-nothing"


def test_what_is_in_the_way(tmp_path: Path) -> None:
    """A file is no directory, a directory is no file."""
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    below = Below(str(tmp_path))
    for name, text in (("file/x", "not a directory"), ("dir", "is a directory")):
        with pytest.raises(FailedError, match=text):
            below.target(name)


def test_changed_directories_are_seen_after_forget(tmp_path: Path) -> None:
    """What is remembered of directories can be dropped."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    below = Below(str(root))
    assert below.parent("a/x") == str(root / "a")
    (root / "a").rmdir()
    (root / "a").symlink_to("..")
    below.forget()
    with pytest.raises(FailedError, match="leads out"):
        below.parent("a/x")
