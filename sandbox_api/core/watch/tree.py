"""One watch through the kernel.

A directory that appears is gone into on a file thread; what comes meanwhile waits. So the names
that are found in a new directory are told before what happens in it later.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.mounts import kernel_devices
from sandbox_api.core.paths import printable
from sandbox_api.core.refusals import refusal
from sandbox_api.core.watch.directory import Directory
from sandbox_api.core.watch.events import Event, trouble
from sandbox_api.core.watch.followed import Followed, Unsettled
from sandbox_api.core.watch.history import History
from sandbox_api.core.watch.inotify import Inotify, Scan
from sandbox_api.core.watch.raw import CAUGHT_UP, MOVE_EXPIRED, Raw
from sandbox_api.core.watch.scan import (
    Displaced,
    Entered,
    Names,
    Piece,
    Refused,
    Scanner,
    Scope,
)
from sandbox_api.core.watch.spec import WatchSpec
from sandbox_api.errors import UnavailableError

log = logging.getLogger(__name__)

MAX_PENDING: Final = 32 << 10
PIECES_AT_ONCE: Final = 128
HANDLED_AT_ONCE: Final = 256

_TOO_MANY = "events were lost, since too many came at once; list the directory again"
_GONE = "the watched directory was moved or removed; watch it again when it exists"
_FAILED = "the watch failed; the daemon's log says more"


class Tree:
    """One watched directory, and with `recursive` all below it.

    Args:
        spec: what is watched.
        inotify: gives the events.
        threads: where directories are looked at, as the workload user.

    Attributes:
        history: its events.
    """

    def __init__(self, spec: WatchSpec, inotify: Inotify, threads: FileThreads) -> None:
        self.history = History(spec.shown)
        self._spec = spec
        self._inotify = inotify
        self._threads = threads
        self._followed = Followed(self, spec, self.history, inotify, self._expire_move)
        self._pending: deque[tuple[Raw, Directory | None]] = deque()
        self._settling: dict[int, Unsettled] = {}
        self._scans = 0
        self._lost = False
        self._skipped: frozenset[int] = frozenset()
        self._busy: asyncio.Task[None] | None = None

    async def arm(self) -> None:
        """Begin: when this returns, nothing that happens is missed.

        Raises:
            FailedError: the directory cannot be opened or read.
            UnavailableError: there are not enough kernel watches for all directories.
        """
        if self.history.ended:
            return
        self._inotify.open()
        self._inotify.listen(self)
        self._busy = asyncio.current_task()
        try:
            if self._spec.recursive:
                self._skipped = await self._threads.run(kernel_devices)
            scanner = self._scanner(announce=False)
            await self._scan(scanner, scanner.scan_root(self._followed.root), arming=True)
        except OSError as exc:
            raise refusal("open", self._spec.path, exc) from exc
        finally:
            self._busy = None
        self._go_on()

    async def still_there(self) -> bool:
        """Whether the path leads to the same directory, and the user may still read it.

        Raises:
            FailedError: the user may not.
        """
        with self._inotify.scanning():
            try:
                wd = await self._threads.run(self._inotify.add, self._spec.path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError as exc:
                raise refusal("open", self._spec.path, exc) from exc
            if wd != self._followed.root.wd:
                self._inotify.discard([wd])
        return wd == self._followed.root.wd

    async def check(self) -> None:
        """End where the path leads to the directory no more.

        The kernel does not tell when one further up was moved, nor, as long as somebody works in
        it, that it was removed.
        """
        if self.history.ended or self._busy or await self._threads.run(self._is_in_place):
            return
        self.end(trouble(self._spec.shown, _GONE))

    def _is_in_place(self) -> bool:
        try:
            status = os.stat(self._spec.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        identity = self._inotify.identity(self._followed.root)
        return identity in {None, (status.st_dev, status.st_ino)}

    def end(self, *events: Event) -> None:
        """The watch is over, after these events."""
        if not self.history.ended:
            self.history.end(*events)
            self._close()

    def _close(self) -> None:
        self._inotify.unlisten(self)
        self._forget_pending()
        self._inotify.release(self._followed.root)

    def take(self, raw: Raw, directory: Directory | None) -> None:
        """What the kernel says; for `Inotify`."""
        if self.history.ended:
            return
        if self._busy is None:
            with self._ending_on_error():
                self._handle(raw, directory)
                self._go_on()
        elif len(self._pending) < MAX_PENDING:
            self._pending.append((raw, directory))
        else:
            self._forget_pending()
            self._lose()

    def _expire_move(self, cookie: int) -> None:
        self.take(Raw(self._inotify.sequence, MOVE_EXPIRED, cookie), None)

    def _forget_pending(self) -> None:
        self._pending.clear()
        while self._settling:
            self._followed.settle(self._settling.popitem()[1])
        self._followed.forget_moves()

    def _lose(self) -> None:
        """Events are missing: say so, and look at all directories again."""
        self.history.add(trouble(self._spec.shown, _TOO_MANY))
        self._lost = self._spec.recursive

    def _handle(self, raw: Raw, directory: Directory | None) -> None:
        if directory is not None:
            self._followed.handle(raw, directory)
            if self._followed.over:
                self._close()
        elif raw.mask == CAUGHT_UP:
            self._followed.settle(self._settling.pop(raw.cookie, []))
        elif raw.mask == MOVE_EXPIRED:
            self._followed.expire_move(raw.cookie)
        else:
            self._lose()

    # What has to wait for a file thread, and then what had to wait for that

    def _go_on(self) -> None:
        waits = self._pending or self._followed.held or self._followed.to_enter or self._lost
        if waits and not self.history.ended:
            self._busy = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            with self._ending_on_error():
                while not self.history.ended and await self._step():
                    pass
        finally:
            self._busy = None

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        """Readers do not wait for ever when there is a fault in here."""
        try:
            yield
        except Exception:
            log.exception("watch broken off", extra={"path": printable(self._spec.path)})
            self.end(trouble(self._spec.shown, _FAILED))

    async def _step(self) -> bool:
        """Do what comes next; False where there is nothing."""
        if self._lost:
            self._lost = False
            scanner = self._scanner(announce=True)
            await self._scan(scanner, scanner.scan_root(Directory(self, self._spec.shown)))
        elif self._followed.to_enter:
            await self._enter(*self._followed.to_enter.popleft())
        elif self._followed.held or self._pending:
            self._handle_some()
            await asyncio.sleep(0)
        else:
            return False
        return True

    def _handle_some(self) -> None:
        followed = self._followed
        for _ in range(HANDLED_AT_ONCE):
            if followed.to_enter or self._lost or self.history.ended:
                return
            if followed.held:
                self._handle(*followed.held.popleft())
            elif self._pending:
                self._handle(*self._pending.popleft())

    def _scanner(self, *, announce: bool) -> Scanner:
        scope = Scope(self._spec.recursive, announce, self._spec.ignores, self._skipped)
        return Scanner(self._inotify.add, scope)

    async def _enter(self, parent: Directory, name: str) -> None:
        identity = self._inotify.identity(parent)
        if parent.top is self._followed.root and identity is not None:
            scanner = self._scanner(announce=True)
            await self._scan(scanner, scanner.scan_below(parent, identity, name))

    async def _scan(
        self, scanner: Scanner, pieces: Iterator[Piece], *, arming: bool = False
    ) -> None:
        try:
            with self._inotify.scanning() as scan:
                await self._take_pieces(scan, pieces, arming=arming)
        except (OSError, UnavailableError) as exc:
            if arming:
                raise
            if isinstance(exc, UnavailableError):  # else it has gone, and the kernel says so
                self.history.add(trouble(self._spec.shown, exc.message))
        finally:
            scanner.close()
        if scan.lost:
            self._lose()
        if unsettled := self._followed.take_unsettled():
            self._scans += 1
            self._settling[self._scans] = unsettled
            self._inotify.tell_when_caught_up(self, self._scans)

    async def _take_pieces(self, scan: Scan, pieces: Iterator[Piece], *, arming: bool) -> None:
        same: dict[Directory, Directory] = {}
        while True:
            found, error = await self._threads.run(_next_pieces, pieces)
            refused = [piece for piece in found if isinstance(piece, Refused)] if arming else []
            if refused or self.history.ended:
                self._inotify.discard(p.directory.wd for p in found if isinstance(p, Entered))
                if refused:
                    raise UnavailableError(_cannot_watch(refused[0]))
                return
            await self._adopt(scan, found, same)
            if error is not None:
                raise error
            if not found:
                return

    async def _adopt(
        self, scan: Scan, found: list[Piece], same: dict[Directory, Directory]
    ) -> None:
        """Let what was found be part of the tree; what is known already stays as it is.

        Args:
            scan: the scan.
            found: some of what it found.
            same: directories of the scan that are known, by their new object.
        """
        entered = [piece for piece in found if isinstance(piece, Entered)]
        new = [one for one in entered if self._followed.attach(one.directory, same)]
        if missed := self._inotify.bind(scan, new):
            waiting = [*self._pending, *missed]
            self._pending = deque(sorted(waiting, key=lambda one: one[0].sequence))
        for piece in found:
            match piece:
                case Names(directory, names):
                    if directory not in same:
                        self._followed.announce(directory, names)
                        await asyncio.sleep(0)  # readers keep up with a directory of any size
                case Refused(path, name, _):
                    self.history.add(Event("", name, path, _cannot_watch(piece)))
                case Displaced():
                    self._followed.displace(piece)


def _next_pieces(pieces: Iterator[Piece]) -> tuple[list[Piece], Exception | None]:
    """Some more of what a scan finds, and what ended it early."""
    found: list[Piece] = []
    try:
        for piece in islice(pieces, PIECES_AT_ONCE):
            found.append(piece)  # noqa: PERF402 - what came before an error must not be lost
    except (OSError, UnavailableError) as exc:
        return found, exc
    return found, None


def _cannot_watch(refused: Refused) -> str:
    return f"cannot watch {printable(f'{refused.path}/{refused.name}')}: {refused.reason}"
