"""The sockets of a process and of what it has started, and the other way: whose process it is."""

import os
from collections.abc import Collection, Iterable, Mapping

from sandbox_api.core.ports import OwnedSocket, open_ports, sockets_of
from sandbox_api.core.processes.ending import find_processes
from sandbox_api.core.processes.process import Process
from sandbox_api.core.processes.tree import ProcessStat, find_tree, writes


def sockets_of_process(
    pid: int, process: Process | None, pipes: Collection[str]
) -> list[OwnedSocket]:
    """The sockets of a subtree; takes some ms, and runs on any thread.

    Args:
        pid: the kernel's number of its root, for one that is not ours.
        process: ours, over all its restarts; None for any other.
        pipes: of its run, by which to find who shows in no other way.
    """
    return sockets_of(_members(pid, process, pipes))


def open_ports_of_process(
    pid: int, process: Process | None, pipes: Collection[str]
) -> dict[int, frozenset[int]]:
    """The ports that a subtree has opened, each with the inodes of its sockets; else the same."""
    return open_ports(_members(pid, process, pipes))


def _members(
    pid: int, process: Process | None, pipes: Collection[str]
) -> Iterable[tuple[int, str]]:
    if process is not None:
        tree = find_processes(process, pipes)
    else:
        tree = find_tree(pid, reaped=False) if pid > 0 else ()
    return [(stat.pid, stat.name) for stat in tree]


class Candidate:
    """A process of ours that may have started somebody; made on the event loop, used on a thread.

    Args:
        process: which.
    """

    __slots__ = ("exited", "group", "leader", "name", "pipes")

    def __init__(self, process: Process) -> None:
        self.name = process.name
        self.leader = process.child.pid
        self.exited = process.child.exited.done()
        self.group = process.group if process.running else None
        self.pipes = process.output.pipe_links()


def find_owner(
    pid: int, stats: Mapping[int, ProcessStat], candidates: Iterable[Candidate]
) -> str | None:
    """The name of the process of ours that somebody belongs to; of several the newest.

    Args:
        pid: of whom.
        stats: everybody who lives.
        candidates: ours, the oldest first.
    """
    if pid == os.getpid():  # we hold an end of every pipe
        return None
    # The number of a leader that has ended may be a stranger's by now, who is then alive.
    known = [one for one in candidates if not (one.exited and one.leader in stats)]
    leaders = {one.leader: one.name for one in known}
    for ancestor in _lineage(pid, stats):
        if (name := leaders.get(ancestor)) is not None:
            return name
    return next((one.name for one in reversed(known) if _has_left(pid, one)), None)


def _lineage(pid: int, stats: Mapping[int, ProcessStat]) -> Iterable[int]:
    """A process, its session and group, and the same of its parents; never of the daemon's own."""
    seen = {os.getpid()}
    while pid in stats and pid not in seen:
        seen.add(pid)
        stat = stats[pid]
        yield from (pid, stat.group, stat.session)
        pid = stat.parent


def _has_left(pid: int, one: Candidate) -> bool:
    """Whether somebody without a parent of ours is given away by a control group or a pipe."""
    return (one.group is not None and pid in one.group.members()) or writes(pid, one.pipes)
