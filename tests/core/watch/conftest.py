"""What tests of watches share: watches over real directories, and a reader that collects."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.watch import Event, NumberedEvent, Reader, Watches, WatchSpec

DEADLINE_S = 30.0


class Watching:
    """One reader of a watch, and all events that it has seen."""

    def __init__(self, reader: Reader, root: Path) -> None:
        self.root = root
        self.reader = reader
        self.numbered: list[NumberedEvent] = []
        self.ended = False
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        while (events := await self.reader.next(60)) is not None:
            self.numbered.extend(events)
        self.ended = True

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.numbered]

    @property
    def told(self) -> list[str]:
        """`CREATE a/b` for each event, by the path from the root; errors as they are."""
        return [
            event.error or f"{event.op} {os.path.relpath(event.full_path, self.root)}"
            for event in self.events
            if not event.name.startswith("mark-")
        ]

    async def until(self, check: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not check():
            assert time.monotonic() < deadline, self.told[-20:]
            await asyncio.sleep(0.005)

    async def catch_up(self) -> list[str]:
        """Wait until everything that has happened by now was told; what that was."""
        name = f"mark-{secrets.token_hex(8)}"
        (self.root / name).touch()
        await self.until(lambda: any(event.name == name for event in self.events))
        return self.told

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


Watch = Callable[..., Awaitable[Watching]]


@pytest.fixture
async def threads() -> AsyncIterator[FileThreads]:
    owner = FileThreads(None)
    yield owner
    owner.close()


@pytest.fixture
async def watches(threads: FileThreads) -> AsyncIterator[Watches]:
    """All watches, as the daemon's own user."""
    owner = Watches(threads, linger_s=5, check_s=0.05)
    async with owner.open():
        yield owner


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory that is watched."""
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
async def watch(watches: Watches, root: Path) -> AsyncIterator[Watch]:
    """`watching = await watch(recursive=True)`: of `root`, armed; ended after the test."""
    async with AsyncExitStack() as stack:

        async def start(
            path: Path = root,
            *,
            of: Watches = watches,
            recursive: bool = False,
            ignore: Sequence[str] = (),
            poll: bool = False,
            **options: object,
        ) -> Watching:
            spec = WatchSpec(str(path), recursive, tuple(ignore), poll)
            reader = await stack.enter_async_context(of.watch(spec, **options))  # type: ignore[arg-type]
            watching = Watching(reader, path)
            stack.push_async_callback(watching.close)
            return watching

        yield start
