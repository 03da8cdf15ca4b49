"""All watches of the daemon: readers of the same directory share one."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.local import is_shared
from sandbox_api.core.paths import printable
from sandbox_api.core.refusals import refusal
from sandbox_api.core.renames import RENAMES
from sandbox_api.core.tasks import Tasks
from sandbox_api.core.watch.events import Event, trouble
from sandbox_api.core.watch.history import History, NumberedEvent, Reader
from sandbox_api.core.watch.inotify import Inotify
from sandbox_api.core.watch.polling import PolledTree
from sandbox_api.core.watch.spec import WatchSpec
from sandbox_api.core.watch.texts import read_texts
from sandbox_api.core.watch.tree import Tree
from sandbox_api.errors import InvalidError, NotFoundError, UnavailableError

LINGER_S: Final = 60.0
MAX_LINGERING: Final = 8
CHECK_S: Final = 5.0

_STOPPING = "the daemon stops; watch again when it is back"


class Source(Protocol):
    """Where the events of a watch come from; see `Tree`."""

    history: History

    async def arm(self) -> None:
        """Begin."""

    async def still_there(self) -> bool:
        """Whether it can be joined."""

    async def check(self) -> None:
        """End where the directory has gone."""

    def end(self, *events: Event) -> None:
        """It is over."""


class _Watch:
    """One watched directory and how many read it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.readers = 0
        self.numbered = False
        self.arming = asyncio.create_task(source.arm())
        self._end: asyncio.TimerHandle | None = None

    @property
    def failed(self) -> bool:
        """Whether it never began."""
        done = self.arming.done() and not self.arming.cancelled()
        return done and self.arming.exception() is not None

    def linger(self, seconds: float, end: Callable[[], None]) -> None:
        """End some time from now, unless a reader comes."""
        self._end = asyncio.get_running_loop().call_later(seconds, end)

    def stay(self) -> None:
        """Do not end by itself."""
        if self._end is not None:
            self._end.cancel()
            self._end = None


class Watches:
    """All watches; use `open`.

    Args:
        threads: where directories are looked at, as the workload user. Not those of other file
            work: a mount that does not answer holds some up.
        linger_s: seconds for which events are kept after the last reader with numbers left.
        check_s: seconds between two looks whether directories are still in their places.
    """

    def __init__(
        self, threads: FileThreads, *, linger_s: float = LINGER_S, check_s: float = CHECK_S
    ) -> None:
        self._threads = threads
        self._linger_s = linger_s
        self._check_s = check_s
        self._watches: dict[WatchSpec, _Watch] = {}
        self._inotify: Inotify | None = None
        self._stopped = False
        self._tasks = Tasks()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Let directories be watched meanwhile."""
        with RENAMES.told() as notes:
            self._inotify = Inotify(notes)
            checking = asyncio.create_task(self._check_regularly())
            try:
                yield
            finally:
                self.stop()
                checking.cancel()
                self._inotify.close()
                self._inotify = None

    def stop(self) -> None:
        """End all watches: the daemon stops. New ones are refused."""
        self._stopped = True
        for spec, watch in list(self._watches.items()):
            watch.source.end(trouble(spec.shown, _STOPPING))
            self._remove(spec, watch)

    @property
    def count(self) -> int:
        """How many different watches there are, those that are kept for a while among them."""
        return len(self._watches)

    @property
    def kernel_watches(self) -> int:
        """How many directories the kernel watches for us."""
        return self._inotify.directories if self._inotify else 0

    @asynccontextmanager
    async def watch(
        self, spec: WatchSpec, *, numbered: bool = False, since: int | None = None
    ) -> AsyncIterator[Reader]:
        """A reader of what happens from here on, or since an event; it is armed when this enters.

        Args:
            spec: what is watched.
            numbered: whether the reader may come back: events are kept for it for a while.
            since: the number of the last event that it has.

        Raises:
            InvalidError: it is no directory.
            FailedError: the system refused.
            UnavailableError: the kernel has no watches left, or the daemon stops.
        """
        spec = await self._settle(spec)
        watch = await self._join(spec)
        try:
            watch.numbered = watch.numbered or numbered
            yield Reader(watch.source.history, since)
        finally:
            self._leave(spec, watch)

    async def read_texts(self, events: Iterable[NumberedEvent]) -> dict[Event, str]:
        """The content of the small text files that events tell of, as it is by now."""
        return await self._threads.run(read_texts, [event for _, event in events])

    async def inspect(self, spec: WatchSpec) -> None:
        """Raise what `watch` would, as far as that is known without watching.

        Raises:
            NotFoundError: it is no directory.
        """
        try:
            await self._threads.run(_inspect, spec.path)
        except InvalidError as exc:
            raise NotFoundError(exc.message) from exc

    async def _settle(self, spec: WatchSpec) -> WatchSpec:
        shared = await self._threads.run(_inspect, spec.path)
        return spec if spec.poll is not None else replace(spec, poll=shared)

    async def _join(self, spec: WatchSpec) -> _Watch:
        """The watch of a directory, armed; its reader is counted."""
        watch = self._watches.get(spec)
        if watch is not None and watch.arming.done() and not await self._is_there(watch):
            watch.source.end(trouble(spec.shown, "the watched directory was replaced"))
            self._remove(spec, watch)
        watch = self._watches.get(spec)
        if watch is None or watch.source.history.ended:
            watch = self._watches[spec] = _Watch(self._make(spec))
        watch.readers += 1
        watch.stay()
        try:
            await asyncio.shield(watch.arming)
        except BaseException:
            self._leave(spec, watch)
            raise
        return watch

    async def _is_there(self, watch: _Watch) -> bool:
        if watch.failed or watch.source.history.ended:
            return False
        return await self._tasks.settle(watch.source.still_there())

    def _make(self, spec: WatchSpec) -> Source:
        if self._inotify is None or self._stopped:
            raise UnavailableError(_STOPPING)
        if spec.poll:
            return PolledTree(spec, self._threads)
        return Tree(spec, self._inotify, self._threads)

    def _leave(self, spec: WatchSpec, watch: _Watch) -> None:
        watch.readers -= 1
        if watch.readers:
            return
        if not watch.numbered or watch.failed or watch.source.history.ended:
            self._remove(spec, watch)
            return
        watch.linger(self._linger_s, partial(self._remove, spec, watch))
        lingering = [(s, w) for s, w in self._watches.items() if not w.readers]
        for other_spec, other in lingering[:-MAX_LINGERING]:
            self._remove(other_spec, other)

    def _remove(self, spec: WatchSpec, watch: _Watch) -> None:
        watch.source.end()
        watch.stay()
        if not watch.arming.done():
            watch.arming.add_done_callback(_ignore)
        if self._watches.get(spec) is watch:
            del self._watches[spec]

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._check_s)
            for watch in list(self._watches.values()):
                if watch.arming.done():
                    await watch.source.check()


def _ignore(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()


def _inspect(path: str) -> bool:
    """Whether a directory's file system is shared with others.

    Raises:
        InvalidError: there is no directory.
        FailedError: the system refused to tell.
    """
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return is_shared(path)
    except FileNotFoundError:
        raise InvalidError(f"path is not a directory: {printable(path)} does not exist") from None
    except OSError as exc:
        raise refusal("stat", path, exc) from exc
    raise InvalidError(f"path is not a directory: {printable(path)}")
