"""The one owner of child status: nobody else in the daemon waits for a child."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from resource import RUSAGE_SELF, getrusage, struct_rusage

from sandbox_api.core.processes.oom import OomKills
from sandbox_api.core.processes.tree import ProcessStat, read_stat

_SHELL_SAYS_KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended.

    Attributes:
        code: its exit code, or -1 for a death by signal.
        signal: the signal's name (`SIGKILL`), or None.
        cpu_s: processor time of it and the children it waited for, in seconds; None where only
            its parent could know.
        peak_rss_bytes: the largest resident set among them; None where it stayed below the
            daemon's own, which a child starts with and the kernel counts (getrusage(2)).
        known: False when nobody can tell how it ended.
        out_of_memory: whether it died of SIGKILL when the kernel killed for memory.
    """

    code: int
    signal: str | None = None
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None
    known: bool = True
    out_of_memory: bool = False


UNKNOWN_EXIT = Exit(-1, known=False)


class Child:
    """The first process of a run.

    Attributes:
        pid: its number, and that of its session and process group.
        start: when it began, in clock ticks since boot; with the pid it is unique.
        exited: its end.
        tree: what it had started when that was last looked at.
    """

    def __init__(self, pid: int, start: int, exited: "asyncio.Future[Exit]") -> None:
        self.pid = pid
        self.start = start
        self.exited = exited
        self.tree: Sequence[ProcessStat] = ()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process group; nothing once it has ended."""
        stat = None if self.exited.done() else read_stat(self.pid)
        if stat is not None and stat.start == self.start:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


class _Watched:
    """A child that has not ended: whom to tell, and the count of OOM kills when it began."""

    __slots__ = ("exited", "pidfd", "since")

    def __init__(self, exited: "asyncio.Future[Exit]", since: int) -> None:
        self.exited = exited
        self.since = since
        self.pidfd = -1


class Reaper:
    """Sees each child's end at once and without polling: through a pidfd (pidfd_open(2)), or by
    SIGCHLD where there are none, and where orphans have to be reaped as well.

    Args:
        oom_kills: says which deaths were for memory; None where nobody counts them.
    """

    def __init__(self, oom_kills: OomKills | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.oom_kills = oom_kills or OomKills()
        self._watched: dict[int, _Watched] = {}
        self._signalled = False
        self._orphans = False

    def __contains__(self, pid: int) -> bool:
        return pid in self._watched

    def watch(self, popen: "subprocess.Popen[bytes]") -> Child:
        """Take a child over that was just started."""
        popen.returncode = 0  # from here on only we wait for it, subprocess never
        stat = read_stat(popen.pid)
        return self.watch_child(popen.pid, stat.start if stat else 0)

    def watch_child(self, pid: int, start: int) -> Child:
        """Take a child of ours over, whoever started it: a daemon that was replaced by this one
        (execve(2)) leaves its children to it.

        Args:
            pid: its number.
            start: when it began, in clock ticks since boot.
        """
        watched = _Watched(self._loop.create_future(), self.oom_kills.count())
        self._watched[pid] = watched
        if not self._orphans:
            self._open_pidfd(pid, watched)
        return Child(pid, start, watched.exited)

    def reap_orphans(self) -> None:
        """From now on reap whoever becomes our child: the duty of PID 1 and of a subreaper.

        Only in a process whose children are all ours: any other's status would be lost.
        """
        self._orphans = True
        self._listen()
        self._reap_all()

    def release(self, child: Child) -> None:
        """Stop watching a child; it lives on."""
        watched = self._watched.get(child.pid)
        if watched is not None and watched.exited is child.exited:
            del self._watched[child.pid]
            self._close_pidfd(watched)
        if not self._orphans and not self._watched:
            self._unlisten()

    def close(self) -> None:
        """Stop watching; the children live on."""
        for watched in self._watched.values():
            self._close_pidfd(watched)
        self._watched.clear()
        self._unlisten()

    # -- through a pidfd

    def _open_pidfd(self, pid: int, watched: _Watched) -> None:
        try:
            watched.pidfd = os.pidfd_open(pid)
        except OSError:  # a kernel before 5.3, or a seccomp filter of that time
            self._listen()
            self._reap(pid)  # it may have ended before the handler stood
        else:
            self._loop.add_reader(watched.pidfd, self._reap, pid)

    def _close_pidfd(self, watched: _Watched) -> None:
        if watched.pidfd >= 0:
            self._loop.remove_reader(watched.pidfd)
            os.close(watched.pidfd)
            watched.pidfd = -1

    # -- by SIGCHLD

    def _listen(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._loop.add_signal_handler(signal.SIGCHLD, self._reap_all)

    def _unlisten(self) -> None:
        if self._signalled:
            self._signalled = False
            self._loop.remove_signal_handler(signal.SIGCHLD)

    def _reap_all(self) -> None:
        """One signal may stand for many ends (signal(7))."""
        if self._orphans:
            while pid := _next_ended():
                self._reap(pid)
        else:
            for pid in [pid for pid, watched in self._watched.items() if watched.pidfd < 0]:
                self._reap(pid)

    def _reap(self, pid: int) -> None:
        """Take a child's status, once it has ended, and hand it to who watches it, if anybody."""
        try:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            exit_ = UNKNOWN_EXIT
        else:
            if not ended:
                return
            exit_ = exit_of(status, usage)
        if (watched := self._watched.pop(pid, None)) is not None:
            self._close_pidfd(watched)
            if not watched.exited.done():
                watched.exited.set_result(explain(exit_, self.oom_kills, watched.since))


def _next_ended() -> int:
    """A child that has ended and still has its status; 0 when there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if ended is None else ended.si_pid


def explain(exit_: Exit, oom_kills: OomKills, since: int) -> Exit:
    """Say of a death by SIGKILL whether it was for memory; a shell whose program was killed says
    137.

    Args:
        exit_: an end.
        oom_kills: counts them.
        since: the count when the process began.
    """
    if exit_.signal != "SIGKILL" and exit_.code != _SHELL_SAYS_KILLED:
        return exit_
    return replace(exit_, out_of_memory=oom_kills.claim(since))


def exit_of(status: int, usage: struct_rusage | None = None) -> Exit:
    """What a wait status means (wait(2))."""
    code = os.waitstatus_to_exitcode(status)
    name = signal_name(-code) if code < 0 else None
    if usage is None:
        return Exit(max(code, -1), name)
    inherited = getrusage(RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss * 1024 if usage.ru_maxrss > inherited else None
    return Exit(max(code, -1), name, usage.ru_utime + usage.ru_stime, peak)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals have no name but a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
