"""Archives as properties: any tree comes back as it was, any archive stays below its directory."""

import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_api.core.archives.packing import Packing
from sandbox_api.core.archives.unpacking import Unpacking
from sandbox_api.core.metadata import OwnerNames
from sandbox_api.errors import FailedError
from tests.core.archives.test_parsing import info, pack

LETTERS = st.sampled_from([b"a", b"b", b"\xff", b"\n", b'"', b"n" * 120, "é".encode()])
NAMES = st.lists(LETTERS, min_size=1, max_size=2).map(lambda parts: os.fsdecode(b"".join(parts)))
TARGETS = st.lists(st.sampled_from(["a", "b", "..", ".", ""]), min_size=1, max_size=5).map("/".join)
CONTENTS = st.binary(max_size=40) | st.integers(0, 3000).map(bytes)
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755 & 0o777, 0o444])
TREES = st.recursive(
    st.tuples(CONTENTS, MODES) | TARGETS.filter(bool),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
CUTS = st.lists(st.integers(1, 2000), max_size=10)

# names and targets that are likely to meet: what one member makes, another one goes through
PATHS = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "b/b", "./a/b/a", "a/../b", "../outside/a"])
WAYS_OUT = st.sampled_from(["{outside}", "{outside}/a", "../outside", "../../outside/b", "..", "/"])
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]
)
MEMBERS = st.lists(st.tuples(PATHS, KINDS, PATHS | WAYS_OUT), min_size=2, max_size=8)


def make(path: Path, tree: object) -> None:
    """A directory, a file with its mode, or a link."""
    if isinstance(tree, dict):
        path.mkdir()
        for name, inner in tree.items():
            make(path / name, inner)
    elif isinstance(tree, tuple):
        path.write_bytes(tree[0])
        path.chmod(tree[1])
    else:
        path.symlink_to(str(tree))


def found(path: Path) -> object:
    """What `make` makes, as it is there."""
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return {inner.name: found(inner) for inner in path.iterdir()}
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    return path.read_bytes(), stat.S_IMODE(status.st_mode)


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def unpack(root: Path, data: bytes, cuts: list[int]) -> None:
    unpacking = Unpacking(str(root), compressed=False, sync=False)
    try:
        for size in cuts:
            unpacking.feed(data[:size])
            data = data[size:]
        unpacking.feed(data)
        unpacking.finish()
    finally:
        unpacking.discard()


@settings(deadline=None)
@given(st.dictionaries(NAMES, TREES, max_size=4), CUTS)
def test_any_tree_comes_back(tree: dict[str, object], cuts: list[int]) -> None:
    """Every name, content, mode and link, however the stream is cut; and tarfile reads the same."""
    with directory() as place:
        make(place / "a", tree)
        (place / "b").mkdir()
        packing = Packing(
            str(place / "a"), compressed=False, owners=OwnerNames(), stopped=lambda: False
        )
        data = b"".join(iter(packing.read, None))
        unpack(place / "b", data, cuts)
        assert found(place / "b") == tree == found(place / "a")
        with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
            names = sorted(archive.getnames())
        walked = (path.relative_to(place / "a") for path in (place / "a").rglob("*"))
        assert names == sorted(map(str, walked))


@settings(deadline=None, max_examples=200)
@given(MEMBERS, CUTS)
def test_g25_any_archive_stays_below(
    members: list[tuple[str, bytes, str]], cuts: list[int]
) -> None:
    """Whatever its names and links are: it is unpacked or refused, and outside nothing changes."""
    with directory() as place:
        make(place / "outside", {"a": (b"A", 0o644), "b": {}})
        (place / "root").mkdir()
        before = found(place / "outside")
        packed = [
            (
                info(name, kind, linkname=target.format(outside=place / "outside")),
                b"evil" if kind == tarfile.REGTYPE else b"",
            )
            for name, kind, target in members
        ]
        for some in (packed, *([one] for one in packed)):  # a refusal ends only its own archive
            with suppress(FailedError):
                unpack(place / "root", pack(tarfile.GNU_FORMAT, *some), cuts)
        assert found(place / "outside") == before
        assert sorted(os.listdir(place)) == ["outside", "root"]
        assert (place / "outside" / "a").stat().st_nlink == 1
        assert not list((place / "root").rglob(".sandbox-api-*"))
