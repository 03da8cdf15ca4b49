"""G24 as a property: whatever happens in whatever order, no path that is there is missing, each is
told at most once, and every directory is followed under its true path."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.watch import Watches, WatchSpec
from tests.core.watch.conftest import Watching

VERBS = ("mkdir", "mkdir", "mkdir -p", "file", "write", "rename", "rename", "remove", "in", "out")

steps = st.lists(
    st.tuples(st.sampled_from(VERBS), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=25,
)


Change = tuple[str, int, int]


class Play:
    """Random changes below a directory; every name that is given is new."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.outside = base / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"n{self._names}"

    def directories(self) -> list[Path]:
        return [Path(path) for path, _, _ in os.walk(self.root)]

    def entries(self) -> list[Path]:
        return sorted(self.root.rglob("n*"))

    def make(self, paths: Iterable[str]) -> None:
        for path in paths:
            Path(path).touch()

    def unmake(self, paths: Iterable[str]) -> None:
        for path in paths:
            Path(path).unlink()

    def do_all(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self.do(*change)

    def do(self, verb: str, first: int, second: int) -> None:
        directories, entries = self.directories(), self.entries()
        where = directories[first % len(directories)]
        what = entries[second % len(entries)] if entries else None
        match verb:
            case "mkdir":
                (where / self.name()).mkdir()
            case "mkdir -p":
                made = where / self.name() / self.name()
                made.mkdir(parents=True)
                (made / self.name()).touch()
            case "file":
                (where / self.name()).write_text("x")
            case "in":
                tree = self.outside / self.name()
                (tree / self.name()).mkdir(parents=True)
                (tree / self.name()).touch()
                tree.rename(where / self.name())
            case _ if what is not None:
                self.change(verb, where, what)

    def change(self, verb: str, where: Path, what: Path) -> None:
        if verb == "write" and what.is_file():
            what.write_text("y")
        elif verb == "rename" and what != where and what not in where.parents:
            what.rename(where / self.name())
        elif verb == "out":
            what.rename(self.outside / self.name())
        elif verb == "remove":
            shutil.rmtree(what) if what.is_dir() else what.unlink()


async def check(watching: Watching, play: Play) -> None:
    """What is there now was told; a probe in each directory is told under its true path."""
    await watching.catch_up()
    events = watching.events
    assert [event for event in events if event.error] == []
    created = [event for event in events if event.op == "CREATE"]
    assert {entry.name for entry in play.entries()} <= {event.name for event in created}
    paths = [event.full_path for event in created]
    assert {path for path in paths if paths.count(path) > 1} == set()
    await check_followed(watching, play)


async def check_followed(watching: Watching, play: Play) -> None:
    """A probe in each directory is told under its true path."""
    probes = {str(directory / f"probe-{play.name()}") for directory in play.directories()}
    play.make(probes)
    await watching.catch_up()
    told = {event.full_path for event in watching.events if event.op == "CREATE"}
    assert probes <= told
    play.unmake(probes)


async def check_late(owner: Watches, play: Play, changes: list[Change]) -> None:
    """Others watch the same directories, in another way, and begin while things change."""
    changing = asyncio.create_task(asyncio.to_thread(play.do_all, changes))
    specs = [WatchSpec(str(play.root), True, (f"ignored-{number}",)) for number in range(4)]
    async with AsyncExitStack() as stack:
        for spec in specs:
            reader = await stack.enter_async_context(owner.watch(spec))
            watching = Watching(reader, play.root)
            stack.push_async_callback(watching.close)
            await changing if spec is specs[-1] else await asyncio.sleep(0)
            if spec is not specs[0]:
                continue
            first = watching
        await changing
        for late in (first, watching):
            await check_followed(late, play)


@pytest.mark.parametrize("batch", [1, 5, 25])
@settings(
    deadline=None,
    max_examples=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # the kernel is no function: no shrinking
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=steps)
def test_g24_nothing_is_missed(batch: int, changes: list[Change]) -> None:
    """Changes one by one, in small batches, and all at once."""

    async def run(base: Path) -> None:
        threads = FileThreads(None)
        owner = Watches(threads)
        play = Play(base)
        async with owner.open(), owner.watch(WatchSpec(str(play.root), recursive=True)) as reader:
            watching = Watching(reader, play.root)
            for start in range(0, len(changes), batch):
                await asyncio.to_thread(play.do_all, changes[start : start + batch])
                await check(watching, play)
            await check_late(owner, play, changes)
            await check(watching, play)
            await watching.close()
        threads.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
