"""The one owner of child status: nobody else in the daemon waits for a child."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from resource import RUSAGE_SELF, getrusage, struct_rusage

from sandbox_api.core.processes.tree import ProcessStat, read_stat


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
    """

    code: int
    signal: str | None = None
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None
    known: bool = True


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


class Reaper:
    """Sees each child's end through a pidfd, at once and without polling (pidfd_open(2))."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pidfds: set[int] = set()
        self._without_pidfd: dict[int, tuple[subprocess.Popen[bytes], asyncio.Future[Exit]]] = {}

    def watch(self, popen: "subprocess.Popen[bytes]") -> Child:
        """Take a child over."""
        popen.returncode = 0  # from here on only we wait for it, subprocess never
        exited: asyncio.Future[Exit] = self._loop.create_future()
        try:
            pidfd = os.pidfd_open(popen.pid)
        except OSError:  # a kernel before 5.3, or a seccomp filter of that time
            self._watch_by_signal(popen, exited)
        else:
            self._pidfds.add(pidfd)
            self._loop.add_reader(pidfd, self._ended, pidfd, popen, exited)
        stat = read_stat(popen.pid)
        return Child(popen.pid, stat.start if stat else 0, exited)

    def close(self) -> None:
        """Stop watching; the children live on."""
        for pidfd in self._pidfds:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        self._pidfds.clear()
        if self._without_pidfd:
            self._loop.remove_signal_handler(signal.SIGCHLD)

    def _ended(
        self, pidfd: int, popen: "subprocess.Popen[bytes]", exited: "asyncio.Future[Exit]"
    ) -> None:
        if self._reap(popen, exited):
            self._loop.remove_reader(pidfd)
            self._pidfds.discard(pidfd)
            os.close(pidfd)

    def _watch_by_signal(
        self, popen: "subprocess.Popen[bytes]", exited: "asyncio.Future[Exit]"
    ) -> None:
        if not self._without_pidfd:
            self._loop.add_signal_handler(signal.SIGCHLD, self._reap_all)
        self._without_pidfd[popen.pid] = popen, exited
        self._reap_all()  # it may have ended before the handler stood

    def _reap_all(self) -> None:
        for pid, (popen, exited) in list(self._without_pidfd.items()):
            if self._reap(popen, exited):
                del self._without_pidfd[pid]

    def _reap(self, popen: "subprocess.Popen[bytes]", exited: "asyncio.Future[Exit]") -> bool:
        pid, status, usage = os.wait4(popen.pid, os.WNOHANG)
        if pid == 0:
            return False
        if not exited.done():
            exited.set_result(exit_of(status, usage))
        return True


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
