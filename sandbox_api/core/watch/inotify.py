"""The one inotify instance: one kernel watch for each directory, whoever follows it.

Directories are added on file threads, where the kernel checks the rights of the workload user, and
everything else happens on the event loop. Between a directory's being added and its being bound its
events may be read already; they are kept while any scan is under way, and handed over then.
"""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sandbox_api.core import linux
from sandbox_api.core.paths import RESERVED_PREFIX
from sandbox_api.core.renames import Identity, RenameNotes
from sandbox_api.core.watch.directory import NO_WATCH, Directory, Listener
from sandbox_api.core.watch.raw import CAUGHT_UP, MASK, Raw, Unhandled
from sandbox_api.errors import UnavailableError

EVENTS_AT_ONCE = 256  # which take a few milliseconds
MAX_KEPT = 32 << 10
RELEASED_AT_ONCE = 256

_INSTANCE_SHORTAGE = "raise fs.inotify.max_user_instances, or the limit of open files"
_WATCH_SHORTAGE = "raise fs.inotify.max_user_watches with sysctl, or watch fewer directories"

Found = tuple[Directory, Identity]
Kept = tuple[Raw, Directory]
Waiting = tuple[Listener, int]


class Scan:
    """One look at directories that are being added.

    Attributes:
        begin: the number of the last event that was read before it.
        lost: whether events of these directories may have been dropped since.
    """

    __slots__ = ("begin", "lost")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.lost = False


class _Watched:
    """One kernel watch, and all that follow its directory."""

    __slots__ = ("followers", "identity")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.followers: list[Directory] = []


class Inotify:
    """The kernel's events of all directories that are followed; open it first.

    Args:
        notes: what writers of this process tell about their renames.
    """

    def __init__(self, notes: RenameNotes) -> None:
        self._notes = notes
        self._fd = -1
        self._sequence = 0
        self._watched: dict[int, _Watched] = {}
        self._listeners: dict[Listener, None] = {}
        self._unhandled = Unhandled(-1)
        self._in_turn = False
        self._behind: list[Waiting] = []
        self._marks: deque[tuple[int, list[Waiting]]] = deque()
        self._scans: list[Scan] = []
        self._kept: deque[tuple[int, Raw]] = deque()
        self._released: list[Directory] = []
        self._unused: set[int] = set()
        self._sweeping = False
        self._our_cookie = 0

    def open(self) -> None:
        """Begin to read, where that has not begun.

        Raises:
            UnavailableError: the kernel has no instance left.
        """
        if self._fd >= 0:
            return
        try:
            self._fd = linux.open_inotify()
        except OSError as exc:
            raise UnavailableError(
                f"no inotify instance is left ({exc.strerror}); {_INSTANCE_SHORTAGE}"
            ) from exc
        self._unhandled = Unhandled(self._fd)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Give the instance back, and all kernel watches with it."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    @property
    def directories(self) -> int:
        """How many kernel watches there are."""
        return len(self._watched)

    @property
    def sequence(self) -> int:
        """The number of the last event that was read."""
        return self._sequence

    def add(self, path: str) -> int:
        """A kernel watch of a directory, as the user of the calling file thread.

        Raises:
            UnavailableError: there is none left; the text names the limit.
            OSError: the system refused, such as EACCES.
        """
        try:
            return linux.add_inotify_watch(self._fd, path, MASK)
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.ENOMEM}:
                raise UnavailableError(f"no inotify watch is left; {_WATCH_SHORTAGE}") from exc
            raise

    def listen(self, listener: Listener) -> None:
        """Tell a listener what is about all directories."""
        self._listeners[listener] = None

    def unlisten(self, listener: Listener) -> None:
        """Tell it no more."""
        self._listeners.pop(listener, None)

    def tell_when_caught_up(self, listener: Listener, cookie: int) -> None:
        """Give a listener a CAUGHT_UP with this cookie after all that has happened by now."""
        self._behind.append((listener, cookie))
        self._go_on()

    @contextmanager
    def scanning(self) -> Iterator[Scan]:
        """While the context lasts directories are added: their events are kept."""
        scan = Scan(self._sequence)
        self._scans.append(scan)
        try:
            yield scan
        finally:
            self._scans.remove(scan)
            begin = min((other.begin for other in self._scans), default=self._sequence)
            while self._kept and self._kept[0][1].sequence <= begin:
                self._kept.popleft()
            self._start_sweep()

    def bind(self, scan: Scan, found: Iterable[Found]) -> list[Kept]:
        """From here on the events of directories come to their listeners.

        Args:
            scan: in which they were added.
            found: the directories.

        Returns:
            Their events that were read since the scan began, in order.
        """
        bound: dict[int, list[Directory]] = {}
        for directory, identity in found:
            watched = self._watched.get(directory.wd)
            if watched is None:
                watched = self._watched[directory.wd] = _Watched(identity)
                self._notes.watch(identity)
            watched.followers.append(directory)
            bound.setdefault(directory.wd, []).append(directory)
        return [
            (raw, directory)
            for wd, raw in self._kept
            if raw.sequence > scan.begin
            for directory in bound.get(wd, ())
        ]

    def identity(self, directory: Directory) -> Identity | None:
        """Device and inode of a directory that is followed."""
        watched = self._watched.get(directory.wd)
        return None if watched is None else watched.identity

    def release(self, directory: Directory) -> None:
        """Follow a directory and all below it no more; it must have been taken out of its tree."""
        self._released.append(directory)
        self._start_sweep()

    def discard(self, wds: Iterable[int]) -> None:
        """Kernel watches that were added in a scan and are not wanted."""
        self._unused.update(wds)
        self._start_sweep()

    def _start_sweep(self) -> None:
        if not self._sweeping and self._fd >= 0 and (self._released or self._unused):
            self._sweeping = True
            asyncio.get_running_loop().call_soon(self._sweep)

    def _sweep(self) -> None:
        """Release some directories. A scan may be adding one: kernel watches wait for its end."""
        self._sweeping = False
        if self._fd < 0:
            return
        for _ in range(min(RELEASED_AT_ONCE, len(self._released))):
            directory = self._released.pop()
            self._released.extend(directory.children.values())
            self._forget(directory)
        for _ in range(0 if self._scans else min(RELEASED_AT_ONCE, len(self._unused))):
            self._remove_unused(self._unused.pop())
        if self._released or not self._scans:
            self._start_sweep()

    def _forget(self, directory: Directory) -> None:
        watched = self._watched.get(directory.wd)
        if watched is not None and directory in watched.followers:
            watched.followers.remove(directory)
            if not watched.followers:
                self._unused.add(directory.wd)
        directory.wd = NO_WATCH

    def _remove_unused(self, wd: int) -> None:
        watched = self._watched.get(wd)
        if watched is not None and watched.followers:
            return  # somebody follows it again
        if watched is not None:
            del self._watched[wd]
            self._notes.unwatch(watched.identity)
        linux.remove_inotify_watch(self._fd, wd)

    def _go_on(self) -> None:
        if not self._in_turn:
            self._in_turn = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._in_turn = False
        self._read()

    def _read(self) -> None:
        """Read all that there is and handle a bounded part of it, once a turn of the event loop."""
        if self._fd < 0:
            return
        if self._unhandled.fill() and self._behind:
            self._marks.append((self._unhandled.read_bytes, self._behind))
            self._behind = []
        if self._in_turn:
            return
        for wd, mask, cookie, name in self._unhandled.take(EVENTS_AT_ONCE):
            self._sequence += 1
            self._dispatch(wd, mask, cookie, name)
        while self._marks and self._marks[0][0] <= self._unhandled.handled_bytes:
            for listener, cookie in self._marks.popleft()[1]:
                listener.take(Raw(self._sequence, CAUGHT_UP, cookie), None)
        if not self._unhandled.empty or self._behind:
            self._go_on()

    def _dispatch(self, wd: int, mask: int, cookie: int, name: str) -> None:
        if mask & linux.IN_Q_OVERFLOW:
            self._notes.clear()
            for listener in tuple(self._listeners):
                listener.take(Raw(self._sequence, mask), None)
            return
        watched = self._watched.get(wd)
        replaces = self._replaces(watched, mask, cookie, name)
        raw = Raw(self._sequence, mask, cookie, name, replaces)
        if self._scans:
            self._keep(wd, raw)
        if watched is not None:
            for directory in tuple(watched.followers):
                directory.listener.take(raw, directory)

    def _replaces(self, watched: _Watched | None, mask: int, cookie: int, name: str) -> bool | None:
        """See `Raw.replaces`; another daemon's writes are known by their names only."""
        if mask & linux.IN_MOVED_FROM and name.startswith(RESERVED_PREFIX):
            self._our_cookie = cookie
        if not mask & linux.IN_MOVED_TO:
            return None
        told = None if watched is None else self._notes.take(watched.identity, name)
        return False if told is None and cookie == self._our_cookie else told

    def _keep(self, wd: int, raw: Raw) -> None:
        self._kept.append((wd, raw))
        if len(self._kept) > MAX_KEPT:
            _, dropped = self._kept.popleft()
            for scan in self._scans:
                scan.lost = scan.lost or scan.begin < dropped.sequence
