"""One watch that looks again and again: for network and FUSE mounts, where others change files
without this kernel's knowing.

A rename is a REMOVE and a CREATE here, and what comes and goes between two looks is not seen.
Not watchfiles: it compares times in whole seconds, follows links out of the directory, and a name
that is no UTF-8 ends it.
"""

import asyncio
import logging
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import RESERVED_PREFIX, printable
from sandbox_api.core.refusals import refusal
from sandbox_api.core.watch.events import CHMOD, CREATE, REMOVE, WRITE, Event, trouble
from sandbox_api.core.watch.history import History
from sandbox_api.core.watch.spec import WatchSpec
from sandbox_api.errors import FailedError, SandboxError

log = logging.getLogger(__name__)

PAUSE_S: Final = 1.0
MAX_SHARE: Final = 0.1  # of the time that is spent with looking
MAX_ENTRIES: Final = 100_000
ADDED_AT_ONCE: Final = 256

_REMOVED = "the watched directory was removed; watch it again when it exists"


class State(NamedTuple):
    """What is compared of an entry.

    Attributes:
        mode: with its kind.
        owner: user and group.
        content: inode, size and time of the last write; of a directory None.
    """

    mode: int
    owner: tuple[int, int]
    content: tuple[int, int, int] | None


Look = dict[str, dict[str, State]]
"""By the path of each directory what is in it, the directories from above to below."""


class PolledTree:
    """One watched directory, and with `recursive` all below it.

    Args:
        spec: what is watched.
        threads: where it is looked at, as the workload user.
        pause_s: seconds between two looks; more where a look takes long.

    Attributes:
        history: its events.
    """

    def __init__(self, spec: WatchSpec, threads: FileThreads, pause_s: float = PAUSE_S) -> None:
        self.history = History(spec.shown)
        self._spec = spec
        self._threads = threads
        self._pause_s = pause_s
        self._seen: Look = {}
        self._polling: asyncio.Task[None] | None = None

    async def arm(self) -> None:
        """Look for the first time.

        Raises:
            FailedError: it cannot be read, or there is too much in it.
        """
        try:
            self._seen = await self._threads.run(self._look)
        except OSError as exc:
            raise refusal("open", self._spec.path, exc) from exc
        if not self.history.ended:
            self._polling = asyncio.create_task(self._poll())

    async def still_there(self) -> bool:
        """Whether the user may read it; what has gone ends the watch by itself.

        Raises:
            FailedError: the user may not.
        """
        try:
            (await self._threads.run(os.scandir, self._spec.path)).close()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise refusal("open", self._spec.path, exc) from exc
        return True

    async def check(self) -> None:
        """Every look is a check."""

    def end(self, *events: Event) -> None:
        """The watch is over, after these events."""
        self.history.end(*events)
        if self._polling is not None:
            self._polling.cancel()

    async def _poll(self) -> None:
        path, shown = self._spec.path, self._spec.shown
        try:
            await self._look_again_and_again()
        except FileNotFoundError:
            parent, name = posixpath.split(path)
            removed = Event(REMOVE, name, parent.rstrip("/"))
            self.history.end(removed, trouble(shown, _REMOVED))
        except OSError as exc:
            self.history.end(trouble(shown, refusal("open", path, exc).message))
        except SandboxError as exc:
            self.history.end(trouble(shown, exc.message))
        except Exception:
            log.exception("watch broken off", extra={"path": printable(path)})
            self.history.end(trouble(shown, "the watch failed; the daemon's log says more"))

    async def _look_again_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        spent_s = 0.0
        while not self.history.ended:
            await asyncio.sleep(max(self._pause_s, spent_s / MAX_SHARE))
            begin = loop.time()
            seen = await self._threads.run(self._look)
            spent_s = loop.time() - begin
            before, self._seen = self._seen, seen
            await self._add(await self._threads.run(_changes, before, seen))

    async def _add(self, events: list[Event]) -> None:
        for number, event in enumerate(events):
            self.history.add(event)
            if number % ADDED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _look(self) -> Look:
        """What is there now; what cannot be read is as it was.

        Raises:
            OSError: the root cannot be read.
            FailedError: there is too much.
        """
        look: Look = {}
        pending = [self._spec.shown]
        count = 0
        while pending and not self.history.ended:
            path = pending.pop()
            try:
                entries = look[path] = self._read(path)
            except OSError as exc:
                if path == self._spec.shown:
                    raise
                if not isinstance(exc, FileNotFoundError):
                    look.update(_part(self._seen, path))
                continue
            count += len(entries)
            if count > MAX_ENTRIES:
                raise FailedError(
                    f"{printable(self._spec.path)} holds more than {MAX_ENTRIES} entries, too many "
                    "to look at again and again; watch a smaller directory, or ignore a part of it"
                )
            if self._spec.recursive:
                found = (n for n, state in entries.items() if state.content is None)
                pending.extend(f"{path}/{name}" for name in found)
        return look

    def _read(self, path: str) -> dict[str, State]:
        states: dict[str, State] = {}
        with os.scandir(path or "/") as scan:
            for entry in scan:
                name = entry.name
                if not name.startswith(RESERVED_PREFIX) and not self._spec.ignores(
                    f"{path}/{name}"
                ):
                    try:
                        states[name] = _state(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
        return states


def _state(status: os.stat_result) -> State:
    content = None
    if not stat.S_ISDIR(status.st_mode):
        content = (status.st_ino, status.st_size, status.st_mtime_ns)
    return State(status.st_mode, (status.st_uid, status.st_gid), content)


def _part(look: Look, path: str) -> Look:
    below = f"{path}/"
    return {one: look[one] for one in look if one == path or one.startswith(below)}


def _changes(before: Look, after: Look) -> list[Event]:
    """What happened between two looks: what went from below to above, then what came."""
    return [
        *_events(reversed(before), before, lambda path, name, _: _went(after, path, name)),
        *_events(iter(after), after, lambda path, name, now: _came(before, path, name, now)),
    ]


def _events(
    paths: Iterator[str], look: Look, compare: Callable[[str, str, State], tuple[str, ...]]
) -> Iterator[Event]:
    for path in paths:
        for name, state in look[path].items():
            for op in compare(path, name, state):
                yield Event(op, name, path)


def _went(after: Look, path: str, name: str) -> tuple[str, ...]:
    return () if name in after.get(path, {}) else (REMOVE,)


def _came(before: Look, path: str, name: str, now: State) -> tuple[str, ...]:
    was = before.get(path, {}).get(name)
    if was is None:
        return (CREATE,)
    if stat.S_IFMT(was.mode) != stat.S_IFMT(now.mode):
        return (REMOVE, CREATE)
    changed = was.content != now.content
    attributes = (was.mode, was.owner) != (now.mode, now.owner)
    return (*((WRITE,) if changed else ()), *((CHMOD,) if attributes else ()))
