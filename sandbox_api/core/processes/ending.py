"""Ending a process: SIGTERM, the grace, SIGKILL, for its whole tree."""

import asyncio
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress

from sandbox_api.core.processes.process import Process, Status
from sandbox_api.core.processes.tree import (
    ProcessStat,
    Traces,
    all_stats,
    find_tree,
    send_signal,
    wait_for_ends,
)

KILL_DEADLINE_S = 5.0
EVERYBODY = -1  # kill(2): every process that may be signalled, but PID 1


async def remains(process: Process) -> Sequence[ProcessStat]:
    """The living processes of its tree, those included that were in it when last looked at."""
    if process.group is not None:
        await process.group.settled()
    pipes = process.output.pipe_links()
    process.child.tree = await asyncio.to_thread(find_processes, process, pipes)
    return process.child.tree


def find_processes(process: Process, pipes: Collection[str] = ()) -> Sequence[ProcessStat]:
    """The living processes of its tree; takes some ms, and runs on any thread.

    Args:
        process: which.
        pipes: of its run, by which to find who shows in no other way.
    """
    child, group = process.child, process.group
    traces = Traces(child.tree, group.members() if group else (), pipes)
    return find_tree(child.pid, reaped=child.exited.done(), traces=traces)


async def terminate(process: Process) -> None:
    """Send SIGTERM to the whole tree: to whoever has left the process group, and to the group.

    The tree is found first: who has lost its parent is found no more.
    """
    group = process.child.pid
    send_signal([s for s in await remains(process) if s.group != group], signal.SIGTERM)
    process.child.send(signal.SIGTERM)


async def terminate_all(timeout_s: float) -> None:
    """SIGTERM to every process but this one, and a wait for their ends.

    Args:
        timeout_s: seconds to wait at most.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    with suppress(ProcessLookupError, PermissionError):  # there is none, or none of ours
        os.kill(EVERYBODY, signal.SIGTERM)
    while (others := await asyncio.to_thread(_others)) and loop.time() < deadline:
        await wait_for_ends(others, deadline)


def _others() -> Sequence[ProcessStat]:
    """All but this process and the kernel's threads, which are in no process group."""
    return [stat for stat in all_stats() if stat.pid != os.getpid() and stat.group]


async def escalate(process: Process, grace_s: float) -> None:
    """After the grace, kill what a stop left: the process itself, or children that go on.

    Args:
        process: one that was told to stop.
        grace_s: seconds since it was told.
    """
    deadline = asyncio.get_running_loop().time() + grace_s
    done, _ = await asyncio.wait([process.child.exited], timeout=grace_s)
    if done and not await remains(process):
        return
    await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
    await kill_remains(process, KILL_DEADLINE_S)


async def kill(process: Process, timeout_s: float) -> Sequence[ProcessStat]:
    """SIGKILL the whole tree, and wait for the end of the process.

    Args:
        process: which; one that waits for its restart will not get it.
        timeout_s: seconds to wait at most.

    Returns:
        The survivors.
    """
    if process.running:
        process.want_end(Status.KILLED)
    deadline = asyncio.get_running_loop().time() + timeout_s
    survivors = await kill_remains(process, timeout_s)
    if not survivors:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await process.ended.wait()
    return survivors


async def kill_remains(process: Process, timeout_s: float) -> Sequence[ProcessStat]:
    """SIGKILL the whole tree of the current run; returns the survivors after `timeout_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while (tree := await remains(process)) and loop.time() < deadline:
        if process.group is not None:
            await asyncio.to_thread(process.group.kill)
        process.child.send(signal.SIGKILL)  # the group as it is now: forks since are in it
        send_signal(tree, signal.SIGKILL)
        await wait_for_ends(tree, deadline)
    return tree
