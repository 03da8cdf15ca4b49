"""While descriptors or the disk run out: a clear error, and all works again after that."""

import os
import resource
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_api.core.archives import Archives
from sandbox_api.core.copies import Copies
from sandbox_api.core.files import Files
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.trees import TreeQuery, Trees
from sandbox_api.core.uploads import Resuming, Span
from sandbox_api.errors import FailedError, UnavailableError
from tests.core.archives.test_parsing import info, pack


@pytest.fixture
async def threads() -> AsyncIterator[FileThreads]:
    """The daemon's own threads, which are all there."""
    owner = FileThreads(None)
    await owner.run(lambda: None)
    yield owner
    owner.close()


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_g28_no_more_descriptors(threads: FileThreads, tmp_path: Path) -> None:
    """A tree, a copy, a move and an archive tell it, and leave nothing behind."""
    paths = PathResolver(str(tmp_path), "")
    files = Files(threads, paths)
    trees, copies, archives = (
        Trees(threads, files, max_bytes=1000),
        Copies(threads, paths),
        Archives(threads),
    )
    (tmp_path / "a").write_text("A")
    here = paths.resolve(".")
    data = pack(tarfile.GNU_FORMAT, (info("t"), b"T"))

    async def unpack() -> None:
        async with archives.unpack(here, compressed=False) as receiver:
            await receiver.feed(data)
            await receiver.finish()

    attempts = (
        lambda: trees.read(here, TreeQuery(content=True)),
        lambda: trees.write(here, {"b": "B"}),
        lambda: copies.copy("a", "c"),
        unpack,
    )
    for attempt in attempts:
        with no_descriptors(), pytest.raises(UnavailableError, match="too many open files"):
            await attempt()
    assert sorted(os.listdir(tmp_path)) == ["a"]
    for attempt in attempts:
        await attempt()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "t"]


async def test_g28_full_disk(threads: FileThreads, small_disk: Path) -> None:
    """In every way to write: the reason is told, what was there stays, nothing half is left."""
    paths = PathResolver(str(small_disk), "")
    files = Files(threads, paths)
    trees, copies = Trees(threads, files, max_bytes=1000), Copies(threads, paths)
    resuming = Resuming(threads, threads, None)
    (small_disk / "a").write_bytes(b"old")
    (small_disk / "half").write_bytes(bytes(900_000))
    at, large = paths.resolve("a"), bytes(300_000)

    async def stream() -> None:
        async with files.writer(at) as writer:
            await writer.write(large)
            await writer.commit()

    async def resume() -> None:
        span = Span(0, len(large), len(large))
        async with await resuming.begin(at, span) as writer:
            await writer.write(large)
            await writer.commit()

    attempts = (
        lambda: files.write(at, large),
        stream,
        resume,
        lambda: trees.write(paths.resolve("."), {"a": large.decode()}),
        lambda: copies.copy("half", "a"),
    )
    for attempt in attempts:
        with pytest.raises(FailedError, match="no space left on device"):
            await attempt()
        assert (small_disk / "a").read_bytes() == b"old"
        left = set(os.listdir(small_disk)) - {"a", "half"}
        assert all(name.startswith(".sandbox-api-partial-") for name in left)  # it can go on
        for name in left:
            (small_disk / name).unlink()
    (small_disk / "half").write_bytes(bytes(20))
    for attempt in attempts:
        await attempt()
    assert (small_disk / "a").read_bytes() == bytes(20)
