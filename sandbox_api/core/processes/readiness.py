"""Waiting until a process listens (spec/process.md 4.3), from /proc alone.

The kernel tells nobody when a socket begins to listen, so this looks again and again: soon at
first, then less often, and only while somebody waits. The end of the process ends the wait at once.
"""

import asyncio
from collections.abc import Collection, Sequence

from sandbox_api.core.ports import Socket, read_sockets
from sandbox_api.core.processes.process import Process
from sandbox_api.core.processes.sockets import sockets_of_process
from sandbox_api.errors import FailedError, UnavailableError

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2
PAUSE_GROWTH = 1.2
EXPLAINED_PORTS = 10


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
    wanted = frozenset(ports)
    pause_s = FIRST_PAUSE_S
    while True:
        ended = not process.running  # first: what it left behind may listen by its last moment
        pipes = process.output.pipe_links()
        missing = await asyncio.to_thread(_missing, process, pipes, wanted)
        if missing and ended:
            raise FailedError(_ended(process, missing), process.who)
        left_s = pause_s if deadline is None else min(pause_s, deadline - loop.time())
        if not missing or left_s <= 0:
            return missing
        await _ends_within(process, left_s)
        pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)


async def explain_missing(process: Process, missing: Sequence[int]) -> str:
    """What can be seen of ports that did not become ready; empty where nothing can."""
    pipes = process.output.pipe_links()
    owned = await asyncio.to_thread(sockets_of_process, process.child.pid, process, pipes)
    own = {one.socket.local_port: one.socket for one in owned}
    reasons = [_reason(port, own.get(port)) for port in missing[:EXPLAINED_PORTS]]
    if len(missing) > EXPLAINED_PORTS:
        reasons.append(f"and {len(missing) - EXPLAINED_PORTS} more")
    return "; ".join(reasons)


def _reason(port: int, own: Socket | None) -> str:
    if own is None:
        return f"nothing of the process listens on port {port}"
    if not own.open:
        return f"port {port} is in use by the process, but does not listen"
    if own.loopback:
        return f"port {port} listens on {own.local_addr} only: bind it to 0.0.0.0 or ::"
    return f"port {port} began to listen just after that"


async def _ends_within(process: Process, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await process.ended.wait()
    except TimeoutError:
        pass


def _missing(process: Process, pipes: Collection[str], ports: frozenset[int]) -> Sequence[int]:
    """The ports that are not open yet; whose they are is only looked up when all are there."""
    try:
        missing = ports - {one.local_port for one in read_sockets() if _reachable(one)}
    except UnavailableError:  # it may pass before the deadline
        return sorted(ports)
    if not missing:
        own = (one.socket for one in sockets_of_process(process.child.pid, process, pipes))
        missing = ports - {one.local_port for one in own if _reachable(one)}
    return sorted(missing)


def _reachable(one: Socket) -> bool:
    return one.open and not one.loopback


def _ended(process: Process, missing: Sequence[int]) -> str:
    how = f"signal {process.signal}" if process.signal else f"exit code {process.exit_code}"
    named = [str(port) for port in missing[:EXPLAINED_PORTS]]
    if len(missing) > EXPLAINED_PORTS:
        named.append(f"and {len(missing) - EXPLAINED_PORTS} more")
    return (
        f"process ended with {how} before it listened on port {', '.join(named)}; "
        "its output tells why"
    )
