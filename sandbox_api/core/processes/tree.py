"""Everything that a run has started: finding it in /proc, and ending it.

A run is a session of its own. Its tree is the leader's descendants, and whoever is in its session
or process group, found by one pass over /proc. A signal goes through a pidfd to a process whose
start time is still the one that was seen, so a recycled pid is never hit.
"""

import asyncio
import os
import signal
from collections.abc import Iterable, Sequence
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


def find_tree(
    leader: int, *, reaped: bool, known: Sequence[ProcessStat] = ()
) -> Sequence[ProcessStat]:
    """The living processes of a run.

    Args:
        leader: pid of the run's first process, which is its session and process group as well.
        reaped: whether the leader has been waited for. Its number may then be another's, who is
            the leader of a new session: that one and its session are not ours.
        known: who was in the tree before. In a session of its own, with its parent gone, nothing
            else shows whose it is.
    """
    stats = all_stats()
    seen = {(stat.pid, stat.start) for stat in known}
    ours = {stat.pid for stat in stats if (stat.pid, stat.start) in seen}
    if not (reaped and any(stat.pid == leader for stat in stats)):
        ours.update(s.pid for s in stats if leader in {s.pid, s.group, s.session})
    children: dict[int, list[int]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.pid)
    todo = [*ours] if reaped else [leader, *ours]
    while todo:
        new = [pid for pid in children.get(todo.pop(), ()) if pid not in ours]
        ours.update(new)
        todo += new
    return [stat for stat in stats if stat.pid in ours and stat.pid != os.getpid()]


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
