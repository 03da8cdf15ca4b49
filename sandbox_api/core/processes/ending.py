"""Ending a process: SIGTERM, the grace, SIGKILL, for its whole tree."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

from sandbox_api.core.processes.process import Process, Status
from sandbox_api.core.processes.tree import ProcessStat, find_tree, kill_tree, send_signal


async def remains(process: Process) -> Sequence[ProcessStat]:
    """The living processes of its tree."""
    child = process.child
    return await asyncio.to_thread(find_tree, child.pid, reaped=child.exited.done())


async def terminate(process: Process) -> None:
    """Send SIGTERM to the whole tree: the process group at once, then whoever left it."""
    process.child.send(signal.SIGTERM)
    group = process.child.pid
    send_signal([s for s in await remains(process) if s.group != group], signal.SIGTERM)


async def escalate(process: Process, grace_s: float) -> None:
    """After the grace, kill what a stop left: the process itself, or children that go on.

    Args:
        process: one that was told to stop.
        grace_s: seconds since it was told.
    """
    deadline = asyncio.get_running_loop().time() + grace_s
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await process.ended.wait()
    if process.ended.is_set() and not await remains(process):
        return
    await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
    await kill_tree(process.child.pid, reaped=process.child.exited.done(), deadline=deadline + 1)


async def kill(process: Process, timeout_s: float) -> Sequence[ProcessStat]:
    """SIGKILL the whole tree and wait until nothing of it is left.

    Args:
        process: which; one that waits for its restart will not get it.
        timeout_s: seconds to wait at most.

    Returns:
        The survivors.
    """
    if process.running:
        process.want_end(Status.KILLED)
    deadline = asyncio.get_running_loop().time() + timeout_s
    process.child.send(signal.SIGKILL)
    child = process.child
    survivors = await kill_tree(child.pid, reaped=child.exited.done(), deadline=deadline)
    if not survivors:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await process.ended.wait()
    return survivors
