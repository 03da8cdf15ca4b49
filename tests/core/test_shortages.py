"""Whole directories while descriptors run out: a clear error, and all works again after that."""

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
from sandbox_api.errors import UnavailableError
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
