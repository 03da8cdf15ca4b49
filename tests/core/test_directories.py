"""Listing and removing directories."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.core.directories import (
    SMALL_ENTRIES,
    Directory,
    Page,
    list_directory,
    list_small_directory,
    refuse_protected,
    remove_directory,
    remove_tree,
)
from sandbox_api.core.metadata import OwnerNames
from sandbox_api.core.paths import RESERVED_PREFIX
from sandbox_api.errors import FailedError
from tests.core.conftest import let_others_in

OWNERS = OwnerNames()


def test_list_is_sorted_bytewise_and_complete(tmp_path: Path) -> None:
    """Hidden names and names of any bytes are there; the order is that of bytes, not of text."""
    names = [b"b", b"a", b".h", b"A", "é".encode(), b"\xff", "\U0001f389".encode(), b"a b"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    listing = list_directory(str(tmp_path), "shown", OWNERS)
    raw = [info.raw_path or info.path.encode() for info in listing.files]
    assert raw == [b"shown/" + name for name in sorted(names)]
    assert [info.name for info in listing.files if info.raw_path] == ["\ufffd"]


def test_list_describes_links_and_not_their_targets(tmp_path: Path) -> None:
    """All that is no real directory is a file: links, also dangling, fifos, sockets."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dead").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    listing = list_directory(str(tmp_path), str(tmp_path), OWNERS)
    kinds = {info.name: stat.S_IFMT(info.mode) for info in listing.files}
    assert kinds == {
        "link": stat.S_IFLNK,
        "dead": stat.S_IFLNK,
        "fifo": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }
    assert [(d.path, d.name) for d in listing.subdirectories] == [(f"{tmp_path}/dir", "dir")]


@pytest.mark.parametrize(
    ("shown", "path"), [("/", "/x"), (".", "x"), ("a/", "a/x"), ("../b/.", "../b/x")]
)
def test_list_shows_entries_below_what_was_asked(tmp_path: Path, shown: str, path: str) -> None:
    """Relative stays relative, and no slash is doubled."""
    (tmp_path / "x").touch()
    assert list_directory(str(tmp_path), shown, OWNERS).files[0].path == path


def test_list_hides_what_is_ours(tmp_path: Path) -> None:
    """Writes under way are nobody's business."""
    (tmp_path / f"{RESERVED_PREFIX}1").touch()
    (tmp_path / f"{RESERVED_PREFIX}2").mkdir()
    listing = list_directory(str(tmp_path), "x", OWNERS)
    assert not listing.files
    assert not listing.subdirectories


def test_small_listing_ends_at_its_limit(tmp_path: Path) -> None:
    """What is listed on the event loop is small."""
    for number in range(SMALL_ENTRIES):
        (tmp_path / str(number)).touch()
    assert list_small_directory(str(tmp_path), "x", OWNERS) is not None
    (tmp_path / "one more").touch()
    assert list_small_directory(str(tmp_path), "x", OWNERS) is None


def test_remove_directory_takes_abandoned_writes_with_it(tmp_path: Path) -> None:
    """A directory that looks empty can be removed; one that is not cannot."""
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / f"{RESERVED_PREFIX}1").touch()
    (directory / "file").touch()
    with pytest.raises(FailedError, match=f"^remove {directory}: directory not empty$"):
        remove_directory(str(directory))
    (directory / "file").unlink()
    remove_directory(str(directory))
    assert not directory.exists()


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    """What links point to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    inside = tmp_path / "inside"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "link").symlink_to(outside)
    (inside / "a" / "b" / "file").touch()
    (inside / f"{RESERVED_PREFIX}1").touch()
    remove_tree(str(inside))
    assert not inside.exists()
    assert (outside / "kept").exists()


def test_remove_tree_of_any_depth(tmp_path: Path) -> None:
    """A tree deeper than the longest path and than any stack is removed."""
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(str(top))
    assert not top.exists()


def test_remove_tree_names_what_refused(tmp_path: Path) -> None:
    """The error names the entry that could not be removed."""
    refusing = Path("/proc/self/fd")
    with pytest.raises(FailedError, match=f"^unlinkat {refusing}/[0-9]+: operation not permitted$"):
        remove_tree(str(refusing))


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/usr", "/tmp", "/data", "/data/work", "/data/home/me", "/data/home"]
)
def test_g25_protected_directories(path: str) -> None:
    """What the sandbox needs is refused, with the way around it."""
    with pytest.raises(FailedError, match=r"\?force=true"):
        refuse_protected(path, "/data/work", "/data/home/me")


@pytest.mark.parametrize("path", ["/data2", "/data/wor", "/data/work/x", "/etc/x", "/app"])
def test_g25_other_directories_are_free(path: str) -> None:
    """Only those, and what holds them."""
    refused = None
    try:
        refuse_protected(path, "/data/work", "/data/home/me")
    except FailedError as exc:
        refused = exc.message
    assert refused is None


def test_g25_links_to_protected_directories(tmp_path: Path) -> None:
    """Links to what is protected are protected, and what a link of ours leads to."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "work").symlink_to(real)
    (tmp_path / "etc").symlink_to("/etc")
    for path in ("etc", "work", "real"):
        with pytest.raises(FailedError, match="force"):
            refuse_protected(str(tmp_path / path), str(tmp_path / "work"), "")


def test_pages_by_name(tmp_path: Path) -> None:
    """A page is the next names, files and directories together; the last tells no next."""
    for name in "abcde":
        (tmp_path / name).mkdir() if name in "bd" else (tmp_path / name).touch()
    first = list_directory(str(tmp_path), "x", OWNERS, Page(3))
    assert [file.name for file in first.files] == ["a", "c"]
    assert [each.name for each in first.subdirectories] == ["b"]
    assert first.next_after == b"c"
    last = list_directory(str(tmp_path), "x", OWNERS, Page(3, b"c"))
    assert [file.name for file in last.files] == ["e"]
    assert last.next_after is None
    assert list_directory(str(tmp_path), "x", OWNERS, Page(5)).next_after is None


def test_one_broken_entry_never_fails_the_listing(
    tmp_path: Path, as_nobody: Callable[..., object]
) -> None:
    """Who may list a directory but not enter it sees names, and nothing else of them."""
    (tmp_path / "f").write_text("x")
    let_others_in(tmp_path)
    tmp_path.chmod(0o744)
    listing = as_nobody(list_directory, str(tmp_path), "x", OWNERS)
    assert isinstance(listing, Directory)
    assert listing.files == [("x/f", "f", None, 0, 0, 0, "", "")]
