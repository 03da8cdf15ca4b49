"""Ending a process: SIGTERM, the grace, SIGKILL, for its whole tree."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

from sandbox_api.core.processes.process import Process, Status
from sandbox_api.core.processes.tree import ProcessStat, find_tree, send_signal, wait_for_ends

KILL_DEADLINE_S = 5.0


async def remains(process: Process) -> Sequence[ProcessStat]:
    """The living processes of its tree, those included that were in it when last looked at."""
    child = process.child
    reaped = child.exited.done()
    child.tree = await asyncio.to_thread(find_tree, child.pid, reaped=reaped, known=child.tree)
    return child.tree


async def terminate(process: Process) -> None:
    """Send SIGTERM to the whole tree: to whoever has left the process group, and to the group.

    The tree is found first: who has lost its parent is found no more.
    """
    group = process.child.pid
    send_signal([s for s in await remains(process) if s.group != group], signal.SIGTERM)
    process.child.send(signal.SIGTERM)


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
        process.child.send(signal.SIGKILL)  # the group as it is now: forks since are in it
        send_signal(tree, signal.SIGKILL)
        await wait_for_ends(tree, deadline)
    return tree
