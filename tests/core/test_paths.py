"""Client paths, modes and names."""

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.paths import (
    RESERVED_PREFIX,
    PathResolver,
    mode_text,
    parse_mode,
    printable,
)
from sandbox_api.errors import InvalidError

PATHS = PathResolver("/work/dir", "/home/me")
SEGMENTS = st.sampled_from(["..", ".", "", "~", "a", "b c", "\udcff", "é", "...", "tree"])


@pytest.mark.parametrize(
    ("path", "shown", "absolute"),
    [
        ("", ".", "/work/dir"),
        (".", ".", "/work/dir"),
        ("./", "./", "/work/dir"),
        ("src/a", "src/a", "/work/dir/src/a"),
        ("src/a/", "src/a/", "/work/dir/src/a"),
        ("/tmp//x", "/tmp/x", "/tmp/x"),
        ("//tmp/x", "/tmp/x", "/tmp/x"),
        ("/", "/", "/"),
        ("../abs", "../abs", "/work/abs"),
        ("../../../../x", "../../../../x", "/x"),
        ("/../x", "/../x", "/x"),
        ("~", "/home/me", "/home/me"),
        ("~/x", "/home/me/x", "/home/me/x"),
        ("~foo", "~foo", "/work/dir/~foo"),
        ("/~", "/~", "/~"),
        ("a/~/b", "a/~/b", "/work/dir/a/~/b"),
    ],
)
def test_resolve(path: str, shown: str, absolute: str) -> None:
    """Every form of spec/filesystem.md 2.2 means what the table there says."""
    location = PATHS.resolve(path)
    assert (location.shown, location.absolute) == (shown, absolute)


def test_resolve_without_home() -> None:
    """`~` without HOME is the client's error, in the reference's words."""
    with pytest.raises(InvalidError, match="home directory not found"):
        PathResolver("/", "").resolve("~/x")


def test_resolve_nul() -> None:
    """A NUL never reaches the kernel."""
    with pytest.raises(InvalidError, match="invalid argument"):
        PATHS.resolve("a\0b")


@given(st.lists(SEGMENTS, max_size=8).map("/".join))
def test_resolve_is_clean(path: str) -> None:
    """What comes out is absolute and clean, and resolving it again changes nothing."""
    absolute = PATHS.resolve(path).absolute
    assert absolute == posixpath.normpath(absolute)
    assert absolute.startswith("/")
    assert not absolute.startswith("//")
    assert ".." not in absolute.split("/")
    assert PATHS.resolve(absolute).absolute == absolute


def walked(path: str) -> str:
    """Where a shell would be after `cd` to every part of a path, one after the other."""
    parts = path.split("/")
    where = [] if path.startswith("/") else ["work", "dir"]
    if parts[0] == "~":
        where, parts = ["home", "me"], parts[1:]
    for part in parts:
        if part == "..":
            where = where[:-1]
        elif part not in {"", "."}:
            where = [*where, part]
    return "/" + "/".join(where)


@given(st.lists(SEGMENTS, max_size=8).map("/".join))
def test_resolve_against_a_model(path: str) -> None:
    """The file is the one that the parts name; what is shown names it too."""
    location = PATHS.resolve(path)
    assert location.absolute == walked(path)
    assert walked(location.shown) == location.absolute
    assert location.shown.startswith("/") == path.startswith(("/", "~/")) or path == "~"


@given(st.binary(min_size=1, max_size=40).filter(lambda b: b"\0" not in b and b"/" not in b))
def test_any_byte_name_survives(name: bytes) -> None:
    """A name of any bytes means exactly that file, and can be shown."""
    location = PATHS.resolve("/d/./" + os.fsdecode(name))
    if name not in {b".", b".."}:
        assert os.fsencode(location.absolute) == b"/d/" + name
    printable(location.shown).encode()


def test_reserved() -> None:
    """What is ours is known at any depth, and only by its prefix."""
    assert PATHS.resolve(f"a/{RESERVED_PREFIX}1/b").reserved
    assert not PATHS.resolve(f"a/x{RESERVED_PREFIX}1").reserved


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (None, None),
        ("", None),
        ("644", 0o644),
        ("0644", 0o644),
        ("4755", 0o4755),
        ("0", 0),
        ("40000755", 0o755),
    ],
)
def test_parse_mode(text: str | None, mode: int | None) -> None:
    """Octal digits are a mode; what the reference prints beside it is dropped."""
    assert parse_mode(text) == mode


@pytest.mark.parametrize(
    "text", ["0o644", "rw-r--r--", "999", "-644", " 644", "644\n", "٦٤٤", "7" * 12]
)
def test_parse_mode_refuses(text: str) -> None:
    """Anything else is refused with the reference's prefix and the value."""
    with pytest.raises(InvalidError, match="invalid permissions format '") as caught:
        parse_mode(text)
    assert text in caught.value.message


def test_mode_text() -> None:
    """All of 07777 is shown, file types are not."""
    assert [mode_text(mode) for mode in (0o100644, 0o104755, 0o40000)] == ["644", "4755", "0"]
