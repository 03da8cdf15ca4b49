"""Everything that a run has started: finding it in /proc, and signalling it.

A run is a session of its own. Its tree is the leader's descendants, whoever is in its session or
process group, and who left all of these but is given away by its control group or by a pipe of the
run that it holds open. It is found by one pass over /proc. A signal goes through a pidfd to a
process whose start time is still the one that was seen, so a recycled pid is never hit.
"""

import asyncio
import os
import signal
import stat as modes  # a `stat` is a process here
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

_STAT_PPID, _STAT_GROUP, _STAT_SESSION, _STAT_START = 1, 2, 3, 19  # after the command's name
_STAT_EXIT = 49
_DEAD = frozenset("ZX")
WITHOUT_PIDFD_S = 0.01


class ProcessStat(NamedTuple):
    """One line of /proc/[pid]/stat (proc(5)); `start` is in clock ticks since boot."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    start: int

    @property
    def dead(self) -> bool:
        """Whether it only waits for its parent to ask how it ended."""
        return self.state in _DEAD


def read_stat(pid: int) -> ProcessStat | None:
    """One process, or None when it is gone."""
    if (found := _read_fields(pid)) is None:
        return None
    name, fields = found
    return ProcessStat(
        pid,
        name,
        fields[0],
        int(fields[_STAT_PPID]),
        int(fields[_STAT_GROUP]),
        int(fields[_STAT_SESSION]),
        int(fields[_STAT_START]),
    )


def read_exit_status(pid: int, start: int) -> int | None:
    """The wait status that a zombie leaves for its parent (proc(5), field 52).

    Returns:
        None when it is no zombie of ours to see: of a stranger's the kernel shows 0.
    """
    found = _read_fields(pid)
    if found is None or int(found[1][_STAT_START]) != start or found[1][0] not in _DEAD:
        return None
    try:
        ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return None
    status = int(found[1][_STAT_EXIT])
    return status if ours or status else None


def _read_fields(pid: int) -> tuple[str, list[str]] | None:
    """The command's name, which may hold anything, and the fields after it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    head, _, tail = line.rpartition(")")
    return head.partition("(")[2], tail.split()


def all_stats() -> list[ProcessStat]:
    """Every process that /proc shows and that is not dead."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [stat for pid in pids if (stat := read_stat(pid)) and not stat.dead]


def read_children(pid: int, thread: int | None = None) -> list[int]:
    """The children of a process, as far as this kernel tells (CONFIG_PROC_CHILDREN).

    Args:
        pid: which.
        thread: only those of this thread of it; None for all.
    """
    children: list[int] = []
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task") if thread is None else [thread]:
            with open(f"/proc/{pid}/task/{name}/children", "rb") as file:
                children += map(int, file.read().split())
    return children


class Traces(NamedTuple):
    """What shows whose a process is that has left its session and lost its parent.

    Attributes:
        known: who was in the tree before.
        members: pids of those in the run's control group.
        pipes: the run's pipes, as the links in /proc/[pid]/fd name them.
    """

    known: Sequence[ProcessStat] = ()
    members: Collection[int] = ()
    pipes: Collection[str] = ()


NO_TRACES = Traces()


def find_tree(leader: int, *, reaped: bool, traces: Traces = NO_TRACES) -> Sequence[ProcessStat]:
    """The living processes of a run.

    Args:
        leader: pid of the run's first process, which is its session and process group as well.
        reaped: whether the leader has been waited for. Its number may then be another's, who is
            the leader of a new session: that one and its session are not ours.
        traces: what else shows who is in the tree.
    """
    stats = [stat for stat in all_stats() if stat.pid != os.getpid()]
    seen = {(stat.pid, stat.start) for stat in traces.known}
    ours = {s.pid for s in stats if s.pid in traces.members or (s.pid, s.start) in seen}
    if not (reaped and any(stat.pid == leader for stat in stats)):
        ours.update(s.pid for s in stats if leader in {s.pid, s.group, s.session})
    _add_descendants(ours, [*ours] if reaped else [leader, *ours], stats)
    writers = [s.pid for s in stats if s.pid not in ours and _writes(s.pid, traces.pipes)]
    ours.update(writers)
    _add_descendants(ours, writers, stats)
    return [stat for stat in stats if stat.pid in ours]


def find_leader(pipes: Collection[str], since: int) -> ProcessStat | None:
    """The first process of a run of which only the pipes are known.

    Args:
        pipes: the run's, as the links in /proc/[pid]/fd name them.
        since: the run began at this time or later, in clock ticks since boot.

    Returns:
        The oldest leader of a session that can write to one of them; None when there is none.
    """
    young = (stat for stat in all_stats() if stat.start >= since and stat.pid == stat.session)
    leaders = (stat for stat in young if _writes(stat.pid, pipes))
    return min(leaders, key=lambda stat: (stat.start, stat.pid), default=None)


def ticks_since_boot() -> int:
    """Now, as /proc/[pid]/stat tells the start of a process."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _add_descendants(ours: set[int], todo: list[int], stats: Sequence[ProcessStat]) -> None:
    children: dict[int, list[int]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.pid)
    while todo:
        new = [pid for pid in children.get(todo.pop(), ()) if pid not in ours]
        ours.update(new)
        todo += new


def _writes(pid: int, pipes: Collection[str]) -> bool:
    """Whether a process has one of these open for writing, as far as we may look.

    Who only reads is no part of a run. The mode of the link itself tells (proc_pid_fd(5)).
    """
    if not pipes:
        return False
    directory = f"/proc/{pid}/fd"
    try:
        links = [f"{directory}/{name}" for name in os.listdir(directory)]
        return any(
            _link(link) in pipes and os.lstat(link).st_mode & modes.S_IWUSR for link in links
        )
    except OSError:
        return False


def _link(path: str) -> str:
    """What a link in /proc names; it is read, never followed: a dead network disk would hang."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def send_signal(stats: Iterable[ProcessStat], number: signal.Signals) -> None:
    """Signal processes, each only if it is still the one that was seen."""
    for stat in stats:
        with suppress(ProcessLookupError, PermissionError), ExitStack() as stack:
            pidfd = _open_pidfd(stat.pid)
            stack.callback(_close, pidfd)
            now = read_stat(stat.pid)
            if now is None or now.start != stat.start:
                continue
            if pidfd is None:
                os.kill(stat.pid, number)
            else:
                signal.pidfd_send_signal(pidfd, number)


def _open_pidfd(pid: int) -> int | None:
    """A pidfd, or None on a kernel (or under a filter) that has none."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


async def wait_for_ends(stats: Iterable[ProcessStat], deadline: float) -> None:
    """Wait until every one of these processes has ended, or the deadline comes (loop time)."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        waits = []
        for stat in stats:
            try:
                pidfd = os.pidfd_open(stat.pid)
            except OSError:
                continue
            stack.callback(os.close, pidfd)
            ended = loop.create_future()
            loop.add_reader(pidfd, _resolve, ended)
            stack.callback(loop.remove_reader, pidfd)
            waits.append(ended)
        if waits:
            await asyncio.wait(waits, timeout=max(0.0, deadline - loop.time()))
        else:
            await asyncio.sleep(WITHOUT_PIDFD_S)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
