"""Waiting until a process listens (spec/process.md 4.3), from /proc alone.

The kernel tells nobody when a socket begins to listen, so this looks again and again: soon at
first, then less often, and only while somebody waits. The end of the process ends the wait at once.
"""

import asyncio
from collections.abc import Sequence

from sandbox_api.core.ports import OwnedSocket, read_sockets, sockets_of
from sandbox_api.core.processes.process import Process
from sandbox_api.core.processes.tree import find_tree
from sandbox_api.errors import FailedError

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2
PAUSE_GROWTH = 1.2


async def wait_for_ports(
    process: Process, ports: Sequence[int], deadline: float | None
) -> Sequence[int]:
    """Wait until the process or a descendant listens on every port, reachable from outside.

    Args:
        process: which.
        ports: TCP or UDP.
        deadline: loop time, or None for as long as it lives.

    Returns:
        The ports that it does not listen on at the deadline.

    Raises:
        FailedError: it ended before.
    """
    loop = asyncio.get_running_loop()
    pause_s = FIRST_PAUSE_S
    while missing := await asyncio.to_thread(_missing, process, ports):
        if not process.running:
            raise FailedError(_ended(process, missing), process.who)
        left_s = pause_s if deadline is None else min(pause_s, deadline - loop.time())
        if left_s <= 0:
            break
        await _ends_within(process, left_s)
        pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
    return missing


async def explain_missing(process: Process, missing: Sequence[int]) -> str:
    """What can be seen of ports that did not become ready; empty where nothing can."""
    own = {one.socket.local_port: one for one in await asyncio.to_thread(_own, process)}
    reasons = []
    for port in missing:
        if port in own and own[port].socket.loopback:
            address = own[port].socket.local_addr
            reasons.append(f"port {port} listens on {address} only: bind it to 0.0.0.0 or ::")
        else:
            reasons.append(f"nothing of the process listens on port {port}")
    return "; ".join(reasons)


async def _ends_within(process: Process, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await process.ended.wait()
    except TimeoutError:
        pass


def _missing(process: Process, ports: Sequence[int]) -> Sequence[int]:
    """The ports that are not open yet; whose they are is only looked up when all are there."""
    somebody = {one.local_port for one in read_sockets() if one.open and not one.loopback}
    if any(port not in somebody for port in ports):
        return [port for port in ports if port not in somebody]
    own = {
        one.socket.local_port
        for one in _own(process)
        if one.socket.open and not one.socket.loopback
    }
    return [port for port in ports if port not in own]


def _own(process: Process) -> Sequence[OwnedSocket]:
    child = process.child
    tree = find_tree(child.pid, reaped=child.exited.done())
    return sockets_of((stat.pid, stat.name) for stat in tree)


def _ended(process: Process, missing: Sequence[int]) -> str:
    how = f"signal {process.signal}" if process.signal else f"exit code {process.exit_code}"
    return (
        f"process ended with {how} before it listened on port "
        f"{', '.join(str(port) for port in missing)}; its output tells why"
    )
