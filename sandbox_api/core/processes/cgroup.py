"""A control group for each process: who is in it belongs to it, wherever it has gone.

Children inherit the group and cannot leave it without rights on it (cgroups(7)). So what a process
has started is known even when it has left its session, lost its parent and closed its output, and
the kernel ends all of it at once.

The kernel moves a process only after a grace period of its own, some 10 ms on an idle machine. So
nothing waits for it: a thread moves the child of a run, unless that has ended already, and then
what the child has forked meanwhile.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from sandbox_api.core.processes.hierarchy import own_directory, own_group
from sandbox_api.core.processes.reaper import Child, Reaper
from sandbox_api.core.processes.tree import ProcessStat, read_children, read_stat

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

PREFIX = "sandbox-api-"
JOIN_AFTER_S = 0.005
LEFT_TRIED_AT_ONCE = 8
_ROUNDS = 8


class Cgroup:
    """The group of one process; its directory is made when somebody is moved into it.

    Args:
        path: its directory.
        used: whether it is there already.
    """

    __slots__ = ("_path", "joined", "used")

    def __init__(self, path: Path, *, used: bool = False) -> None:
        self._path = path
        self.used = used
        self.joined: asyncio.Future[None] | None = None

    async def settled(self) -> None:
        """Wait until all who are to be moved have been."""
        if self.joined is not None and not self.joined.done():
            await asyncio.wait([self.joined])

    def members(self) -> Collection[int]:
        """Who is in it, or in a group below that the process has made."""
        return {pid for path in self._all() for pid in _pids(path)} if self.used else ()

    def kill(self) -> None:
        """SIGKILL to all of them at once, whom they fork meanwhile included (Linux 5.14)."""
        with suppress(OSError):
            _write(self._path / "cgroup.kill", b"1")

    def add(self, pid: int, start: int) -> None:
        """Move a process into it.

        Args:
            pid: its number; of one that has ended, nothing happens.
            start: when it began. A stranger that has got its number meanwhile is moved back.

        Raises:
            OSError: the kernel refuses.
        """
        self.used = True
        with suppress(ProcessLookupError):
            self._write_pid(pid)
            now = read_stat(pid)
            if now is not None and now.start != start:
                _write(self._path.parent.parent / "cgroup.procs", b"%d" % pid)

    def _write_pid(self, pid: int) -> None:
        for attempt in range(_ROUNDS):
            self._path.mkdir(parents=True, exist_ok=True)
            try:
                return _write(self._path / "cgroup.procs", b"%d" % pid)
            except FileNotFoundError:  # another daemon that starts took it for left behind
                if attempt == _ROUNDS - 1:
                    raise
        return None

    def remove(self) -> bool:
        """Remove it.

        Returns:
            False while somebody is in it.
        """
        try:
            for path in reversed(list(self._all())):
                path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _all(self) -> Iterator[Path]:
        """Its directory, and what is below, from the top."""
        for path, _, _ in os.walk(self._path):
            yield Path(path)


class Cgroups:
    """The groups of one daemon's processes.

    Args:
        directory: below it each process has its group.
        reaper: knows the daemon's children.

    Raises:
        OSError: no groups can be made there.
    """

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        _remove_empty(directory.parent)
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._reaper = reaper
        self._own = own_group()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "cgroups")
        self._joining: dict[Child, asyncio.TimerHandle | asyncio.Task[None]] = {}
        self._judged: set[int] = set()
        self._left: deque[Cgroup] = deque()
        self._refused = False

    @classmethod
    def open(cls, name: str, reaper: Reaper) -> "Cgroups | None":
        """Groups below our own one (version 2); None where we may not make any.

        Args:
            name: of this daemon among those that share our group.
            reaper: knows the daemon's children.
        """
        own = own_directory()
        if not os.access(own / "cgroup.procs", os.W_OK):
            return None
        try:
            return cls(own / f"{PREFIX}{name}", reaper)
        except OSError:
            return None

    def group(self, name: str, *, restored: bool = False) -> Cgroup:
        """The group of a process.

        Args:
            name: unique, also among daemons before this one and after it.
            restored: whether a daemon before this one may have made it.
        """
        path = self._directory / name
        return Cgroup(path, used=restored and path.exists())

    def join(self, group: Cgroup, child: Child) -> None:
        """Move the child of a run into the group, soon."""
        if not self._refused:
            group.joined = self._loop.create_future()
            timer = self._loop.call_later(JOIN_AFTER_S, self._begin_join, group, child)
            self._joining[child] = timer

    async def leave(self, group: Cgroup, child: Child) -> Cgroup | None:
        """Its process has ended: the group is removed once nobody is in it.

        Args:
            group: which.
            child: the process's last one. All it leaves behind has become ours by now.

        Returns:
            The group, where there may still be somebody in it.
        """
        joining = self._joining.get(child)
        if isinstance(joining, asyncio.TimerHandle):
            joining.cancel()
            self._begin_join(group, child)
        await group.settled()
        if not group.used:
            return None
        self._left.append(group)
        self._thread.submit(self._remove_left)
        return group

    def close(self) -> None:
        """Let go of all groups; those with somebody in it stay."""
        for joining in self._joining.values():
            joining.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)
        _remove_empty(self._directory.parent)

    def _begin_join(self, group: Cgroup, child: Child) -> None:
        if child.exited.done() and not self._strangers():
            self._end_join(group, child)
        else:
            self._joining[child] = self._loop.create_task(self._join(group, child))

    async def _join(self, group: Cgroup, child: Child) -> None:
        try:
            if not child.exited.done():
                await self._on_thread(group.add, child.pid, child.start)
            for _ in range(_ROUNDS):
                if not await self._on_thread(_gather, group, child, self._strays(child)):
                    break
        except OSError as exc:
            self._refused = True
            log.info("control groups are not used: %s", exc)
        finally:
            self._end_join(group, child)

    async def _on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._thread, partial(function, *args, **kwargs))

    def _end_join(self, group: Cgroup, child: Child) -> None:
        del self._joining[child]
        if group.joined is not None and not group.joined.done():
            group.joined.set_result(None)

    def _strays(self, child: Child) -> list[ProcessStat]:
        """Who was forked before the child was moved, and then lost its parent to us.

        Whose one is that has left its session as well shows only when no other run began at that
        time; else it stays where it is.
        """
        strays = []
        for pid in self._strangers():
            if (stat := read_stat(pid)) is None:
                continue
            owner = self._owner(stat)
            if owner is None or own_group(pid=pid) != self._own:
                self._judged.add(pid)
            elif owner is child:
                strays.append(stat)
        return strays

    def _strangers(self) -> list[int]:
        """Orphans that have become our children, and of whom nothing is known yet.

        Only on the event loop: who was started and is not watched yet would be taken for one.
        """
        children = read_children(os.getpid(), os.getpid())  # the kernel gives them to that thread
        if self._judged:
            self._judged.intersection_update(children)
        return [pid for pid in children if pid not in self._reaper and pid not in self._judged]

    def _owner(self, stat: ProcessStat) -> Child | None:
        joining = [child for child in self._joining if child.start <= stat.start]
        sure = [child for child in joining if child.pid in {stat.session, stat.group}]
        return next(iter(sure or joining), None) if len(sure or joining) == 1 else None

    def _remove_left(self) -> None:
        for _ in range(min(len(self._left), LEFT_TRIED_AT_ONCE)):
            group = self._left.popleft()
            if not group.remove():
                self._left.append(group)


def _gather(group: Cgroup, child: Child, strays: Iterable[ProcessStat]) -> bool:
    """Add what the child forked before it was moved.

    Returns:
        Whether there was any; there may be more then.
    """
    members = group.members()
    now = read_stat(child.pid)
    todo = [*members] if now is None or now.start != child.start else [child.pid, *members]
    found = {stat.pid: stat for stat in strays}
    while todo:
        for pid in read_children(todo.pop()):
            if pid not in members and pid not in found and (stat := read_stat(pid)):
                found[pid] = stat
                todo.append(pid)
    for stat in found.values():
        group.add(stat.pid, stat.start)
    return bool(found)


def _remove_empty(own: Path) -> None:
    """Remove what daemons before this one left, but for groups with somebody in it."""
    with suppress(OSError):
        for directory in own.iterdir():
            if directory.name.startswith(PREFIX):
                _remove_groups(directory)


def _remove_groups(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            Cgroup(path).remove()
    with suppress(OSError):
        directory.rmdir()


def _pids(directory: Path) -> list[int]:
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _write(path: Path, data: bytes) -> None:
    """A file of the kernel's takes a value in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
