"""The directories that one watch follows, and what the kernel's events mean to it.

Events are to be handled strictly in their order: each finds the directories as they were when it
happened.
"""

import asyncio
import posixpath
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from sandbox_api.core import linux
from sandbox_api.core.paths import RESERVED_PREFIX
from sandbox_api.core.watch.directory import Directory, Listener
from sandbox_api.core.watch.events import CHMOD, CREATE, REMOVE, RENAME, WRITE, Event, trouble
from sandbox_api.core.watch.history import History
from sandbox_api.core.watch.inotify import Inotify
from sandbox_api.core.watch.raw import Raw
from sandbox_api.core.watch.scan import Displaced
from sandbox_api.core.watch.spec import WatchSpec

MOVE_S: Final = 0.05

_APPEARED = linux.IN_CREATE | linux.IN_MOVED_TO
_REMOVED = "the watched directory was removed; watch it again when it exists"
_MOVED = "the watched directory was moved; watch it under its new path"
_UNMOUNTED = "the file system of the watched directory was unmounted"
_ENDS: Final = {
    linux.IN_DELETE_SELF: (REMOVE, _REMOVED),
    linux.IN_MOVE_SELF: (RENAME, _MOVED),
    linux.IN_UNMOUNT: ("", _UNMOUNTED),
    linux.IN_IGNORED: ("", _REMOVED),
}

Happened = tuple[Raw, Directory]
Unsettled = list[Directory | Displaced]


@dataclass(slots=True)
class _Move:
    """The first half of a rename of a followed directory, and what happens below it meanwhile."""

    directory: Directory
    held: list[Happened] = field(default_factory=list)


class Followed:
    """All directories of one watch.

    Args:
        listener: who gets their events.
        spec: what is watched.
        history: where what happened is told.
        inotify: where directories are released.
        expire: called with the cookie of a rename whose second half should have come.

    Attributes:
        root: the watched directory.
        to_enter: directories that appeared, by the one that holds them and their names.
        held: events that waited for a directory to get its new place; they come next.
        over: whether the watched directory has gone.
    """

    def __init__(
        self,
        listener: Listener,
        spec: WatchSpec,
        history: History,
        inotify: Inotify,
        expire: Callable[[int], None],
    ) -> None:
        self.root = Directory(listener, spec.shown)
        self.to_enter: deque[tuple[Directory, str]] = deque()
        self.held: deque[Happened] = deque()
        self.over = False
        self._spec = spec
        self._history = history
        self._inotify = inotify
        self._expire = expire
        self._moving: dict[int, _Move] = {}
        self._displaced: list[Displaced] = []
        self._unsettled: Unsettled = []

    # What scans find

    def attach(self, directory: Directory, same: dict[Directory, Directory]) -> bool:
        """Put a directory that was found into its place; False where it is there already.

        Args:
            directory: found, with its watch; its parent is one that was found or that is known.
            same: those known already, by the object that was found; it is added to them.
        """
        known: Directory | None
        if directory.parent is None:
            known, new = self.root, directory is self.root
        else:
            parent = same.get(directory.parent, directory.parent)
            known = parent.children.get(directory.name)
            new = known is None or known.wd != directory.wd
            if new:
                self._drop(known)
                directory.attach(parent, directory.name)
        if not new and known is not None:
            same[directory] = known
        return new

    def announce(self, directory: Directory, names: Iterable[str]) -> None:
        """Tell what was found in a directory that is new."""
        if directory.announced is None:
            directory.announced = set()
            self._unsettled.append(directory)
        directory.announced.update(names)
        path = directory.path
        for name in names:
            if not self._spec.ignores(f"{path}/{name}"):
                self._history.add(Event(CREATE, name, path))

    def displace(self, displaced: Displaced) -> None:
        """A directory could not be entered, since one above it has just been renamed."""
        self._displaced.append(displaced)
        self._unsettled.append(displaced)

    def take_unsettled(self) -> Unsettled:
        """What a scan found that depends on events which may be still to come.

        `settle` is to be called with it when all that has happened by now was handled.
        """
        unsettled, self._unsettled = self._unsettled, []
        return unsettled

    def settle(self, found: Unsettled) -> None:
        """All that had happened by the end of a scan was handled."""
        for one in found:
            if isinstance(one, Directory):
                one.announced = None
            elif one in self._displaced:
                self._displaced.remove(one)

    def forget_moves(self) -> None:
        """Events were lost, the second halves of renames may be among them."""
        while self._moving:
            self._inotify.release(self._moving.popitem()[1].directory)

    def _drop(self, directory: Directory | None) -> None:
        if directory is not None:
            directory.detach()
            self._inotify.release(directory)

    # What events mean

    def handle(self, raw: Raw, directory: Directory) -> None:
        """What the kernel says about a directory."""
        top = directory.top
        if top is not self.root:
            move = next((m for m in self._moving.values() if m.directory is top), None)
            if move is not None:
                move.held.append((raw, directory))
        elif not raw.name:
            self._handle_itself(raw, directory)
        elif not raw.name.startswith(RESERVED_PREFIX):
            path = directory.path
            if not self._spec.ignores(f"{path}/{raw.name}"):
                self._handle_entry(raw, directory, path)

    def expire_move(self, cookie: int) -> None:
        """A directory that was moved away has not come back under another name: it left."""
        move = self._moving.pop(cookie, None)
        if move is not None:
            self._inotify.release(move.directory)

    def _handle_itself(self, raw: Raw, directory: Directory) -> None:
        """Of a directory below the root its parent tells, but not that it was a mount."""
        if directory is self.root:
            self._handle_root(raw)
        elif raw.mask & linux.IN_UNMOUNT and directory.parent is not None:
            self.to_enter.append((directory.parent, directory.name))
            self._drop(directory)

    def _handle_root(self, raw: Raw) -> None:
        parent, name = posixpath.split(self._spec.path)
        shown = parent.rstrip("/")
        if raw.mask & linux.IN_ATTRIB:
            self._history.add(Event(CHMOD, name, shown))
        for mask, (op, why) in _ENDS.items():
            if raw.mask & mask:
                last = [Event(op, name, shown)] if op else []
                self._history.end(*last, trouble(self._spec.shown, why))
                self.over = True
                return

    def _handle_entry(self, raw: Raw, directory: Directory, path: str) -> None:
        mask, name = raw.mask, raw.name
        if mask & _APPEARED:
            self._appear(raw, directory, path)
        elif mask & linux.IN_MODIFY:
            self._history.add(Event(WRITE, name, path))
        elif mask & linux.IN_ATTRIB:
            self._history.add(Event(CHMOD, name, path))
            if self._follows(raw) and name not in directory.children:
                self.to_enter.append((directory, name))  # it may have become readable
        elif mask & (linux.IN_DELETE | linux.IN_MOVED_FROM):
            self._disappear(raw, directory, path)

    def _follows(self, raw: Raw) -> bool:
        return self._spec.recursive and bool(raw.mask & linux.IN_ISDIR)

    def _appear(self, raw: Raw, directory: Directory, path: str) -> None:
        name = raw.name
        announced = directory.announced is not None and name in directory.announced
        if directory.announced is not None:
            directory.announced.discard(name)
        if not announced and not raw.replaces:
            self._history.add(Event(CREATE, name, path))
        # what was announced may be what a rename replaced
        written = raw.replaces is not None or (announced and raw.mask & linux.IN_MOVED_TO)
        if written and not raw.mask & linux.IN_ISDIR:
            self._history.add(Event(WRITE, name, path))
        if self._follows(raw):
            self._follow(raw, directory, announced=announced)

    def _follow(self, raw: Raw, parent: Directory, *, announced: bool) -> None:
        """A directory appeared: one that was here under another name, or one to go into."""
        known = parent.children.get(raw.name)
        move = self._moving.pop(raw.cookie, None) if raw.mask & linux.IN_MOVED_TO else None
        if known is not None and announced:  # the scan that announced it went into it
            if move is not None:
                self._inotify.release(move.directory)
            return
        self._drop(known)
        if move is None:
            self.to_enter.append((parent, raw.name))
            return
        move.directory.attach(parent, raw.name)
        self.to_enter.extend((one.parent, one.name) for one in self._displaced)
        self._displaced.clear()
        self.held.extend(move.held)

    def _disappear(self, raw: Raw, directory: Directory, path: str) -> None:
        moved = raw.mask & linux.IN_MOVED_FROM
        self._history.add(Event(RENAME if moved else REMOVE, raw.name, path))
        if directory.announced is not None:
            directory.announced.discard(raw.name)
        child = directory.children.get(raw.name) if raw.mask & linux.IN_ISDIR else None
        if child is None:
            return
        if not moved:
            self._drop(child)
            return
        child.detach()
        self._moving[raw.cookie] = _Move(child)
        asyncio.get_running_loop().call_later(MOVE_S, self._expire, raw.cookie)
