"""Processes that a daemon before this one started: seeing their end.

How they ended is known exactly when they are still our children (the daemon replaced itself, and
the reaper has them), when the kernel tells it through a pidfd (Linux 6.15), or when they are seen
as zombies. Otherwise it is said to be unknown, never invented.
"""

import asyncio
import os

from sandbox_api.core.processes.holding import exit_status
from sandbox_api.core.processes.reaper import (
    UNKNOWN_EXIT,
    Child,
    Exit,
    Reaper,
    exit_of,
    explain,
)
from sandbox_api.core.processes.tree import read_exit_status, read_stat

LOOK_AGAIN_S = 0.01
LOOK_AGAIN_TIMES = 100
POLL_S = 1.0


class Adoptions:
    """Watches adopted processes, each through a pidfd.

    Args:
        reaper: has those that are our children.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._loop = asyncio.get_running_loop()
        self._reaper = reaper
        self._oom_kills: int | None = None
        self._pidfds: dict[int, int] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def adopt(self, pid: int, start: int) -> Child:
        """Take over a process.

        Args:
            pid: its number.
            start: when it began, in clock ticks since boot; another process of that number, or
                none, means that ours has ended and nobody knows how.
        """
        if self._oom_kills is None:
            self._oom_kills = self._reaper.oom_kills.count()
        child = Child(pid, start, self._loop.create_future())
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return self.ended(pid, start, UNKNOWN_EXIT)
        except OSError:  # a kernel before 5.3
            pidfd = -1
        stat = read_stat(pid)
        if stat is None or stat.start != start:
            _close(pidfd)
            return self.ended(pid, start, UNKNOWN_EXIT)
        if stat.parent == os.getpid():
            _close(pidfd)
            return self._reaper.watch_child(pid, start)
        self._pidfds[pid] = pidfd
        if pidfd < 0:
            self._poll(child)
        else:
            self._loop.add_reader(pidfd, self._ends, child)
        return child

    def ended(self, pid: int, start: int, exit_: Exit) -> Child:
        """A process whose end is known already."""
        child = Child(pid, start, self._loop.create_future())
        child.exited.set_result(exit_)
        return child

    def close(self) -> None:
        """Stop watching; the processes live on."""
        for timer in self._timers.values():
            timer.cancel()
        for pidfd in self._pidfds.values():
            if pidfd >= 0:
                self._loop.remove_reader(pidfd)
                os.close(pidfd)
        self._pidfds.clear()

    def _poll(self, child: Child) -> None:
        stat = read_stat(child.pid)
        if stat is None or stat.start != child.start or stat.dead:
            self._settle(child, LOOK_AGAIN_TIMES)
        else:
            self._timers[child.pid] = self._loop.call_later(POLL_S, self._poll, child)

    def _ends(self, child: Child) -> None:
        self._loop.remove_reader(self._pidfds[child.pid])
        self._settle(child, LOOK_AGAIN_TIMES)

    def _settle(self, child: Child, times: int) -> None:
        """Find out how it ended. The kernel tells before its parent has reaped it, or after; in
        between, look again."""
        self._timers.pop(child.pid, None)
        exit_ = _exit_of(child, self._pidfds[child.pid])
        if exit_ is None and times > 0:
            again = self._loop.call_later(LOOK_AGAIN_S, self._settle, child, times - 1)
            self._timers[child.pid] = again
            return
        _close(self._pidfds.pop(child.pid))
        if not child.exited.done():
            exit_ = explain(exit_ or UNKNOWN_EXIT, self._reaper.oom_kills, self._oom_kills or 0)
            child.exited.set_result(exit_)


def _exit_of(child: Child, pidfd: int) -> Exit | None:
    told = exit_status(pidfd) if pidfd >= 0 else None
    if told is None:
        told = read_exit_status(child.pid, child.start)
    return None if told is None else exit_of(told)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
