"""Telling somebody outside of each port that a process opens (spec/system.md 6).

Each monitor has its own idea of what it has told, so nobody's question takes an answer away from
it. A port is told once for each time that it is opened; those that are open already come first. A
monitor goes with its process.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.openings import is_new
from sandbox_api.core.portwatch import PortWatch
from sandbox_api.core.processes import Process, Processes
from sandbox_api.core.processes.sockets import open_ports_of_process
from sandbox_api.core.processes.tree import read_stat
from sandbox_api.errors import UnavailableError

log = logging.getLogger(__name__)

MAX_MONITORS = 64
MAX_QUEUED = 256
ALIVE_CHECK_S = 1.0
RETRY_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
LAST_DELIVERY_S = 30.0

# Callback, pid and port to whether it is settled: taken, or refused for good. False: try again.
Deliver: TypeAlias = Callable[[str, int, int], Awaitable[bool]]


class Monitors:
    """All monitors.

    Args:
        watch: says when there is something to look at.
        processes: ours, which a pid may mean.
        threads: where /proc is read, as the workload user.
        deliver: makes one attempt to tell; it has a deadline of its own.
    """

    def __init__(
        self, watch: PortWatch, processes: Processes, threads: FileThreads, deliver: Deliver
    ) -> None:
        self._watch = watch
        self._processes = processes
        self._threads = threads
        self._deliver = deliver
        self._running: dict[tuple[int, str], asyncio.Task[None]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """While the context lasts, monitors may run; they end with it."""
        try:
            yield
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._running)

    def add(self, pid: int, callback: str) -> None:
        """Tell a callback of the ports of a process; the same one again begins anew.

        Args:
            pid: of a process of ours over all its restarts, or of any other. One that nobody has
                is monitored for no time at all.
            callback: a URL.

        Raises:
            UnavailableError: there are too many.
        """
        key = (pid, callback)
        if key not in self._running and len(self._running) >= MAX_MONITORS:
            raise UnavailableError(
                f"{MAX_MONITORS} monitors run already; end one with DELETE /network/process/"
                "{pid}/monitor, or follow GET /network/ports/stream"
            )
        self._end(key)
        process = self._processes.find(str(pid))
        if process is not None and process.pid != pid:  # one whose name is that number
            process = None
        task = asyncio.create_task(self._run(_Monitor(pid, callback, process)))
        self._running[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def remove(self, pid: int) -> None:
        """End all monitors of a process; what was not told yet is not told any more."""
        for key in [key for key in self._running if key[0] == pid]:
            self._end(key)

    def _end(self, key: tuple[int, str]) -> None:
        if (task := self._running.pop(key, None)) is not None:
            task.cancel()

    def _forget(self, key: tuple[int, str], task: "asyncio.Task[None]") -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a monitor of ports failed", exc_info=exc, extra={"pid": key[0]})

    async def _run(self, monitor: "_Monitor") -> None:
        telling = asyncio.create_task(self._tell(monitor))
        try:
            await self._look(monitor)
            monitor.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_DELIVERY_S):
                    await telling
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _look(self, monitor: "_Monitor") -> None:
        """See what the process opens, until it ends."""
        seen = -1
        with self._watch.watching():
            while monitor.alive:
                number = self._watch.number
                if number != seen and await self._scan(monitor):
                    seen = number
                await self._watch.changed(number, ALIVE_CHECK_S)

    async def _scan(self, monitor: "_Monitor") -> bool:
        """Look at the process once; returns whether that was possible."""
        process = monitor.process
        pipes: Collection[str] = process.output.pipe_links() if process else ()
        try:
            found = await self._threads.run(open_ports_of_process, monitor.pid, process, pipes)
        except (OSError, UnavailableError) as exc:  # it may pass
            log.warning("the ports of process %d cannot be read: %s", monitor.pid, exc)
            return False
        monitor.see(found)
        return True

    async def _tell(self, monitor: "_Monitor") -> None:
        """Tell one port after the other, each until it is settled or given up."""
        while (port := await monitor.next()) is not None:
            for pause_s in (*RETRY_PAUSES_S, None):
                if await self._deliver(monitor.callback, monitor.pid, port):
                    break
                if pause_s is None:
                    log.warning("port %d of process %d could not be told", port, monitor.pid)
                else:
                    await asyncio.sleep(pause_s)


class _Monitor:
    """One callback for the ports of one process.

    Args:
        pid: as the client named it.
        callback: a URL.
        process: ours; None for any other.
    """

    def __init__(self, pid: int, callback: str, process: Process | None) -> None:
        self.pid = pid
        self.callback = callback
        self.process = process
        self._start = stat.start if (stat := read_stat(pid)) else None
        self._told: Mapping[int, frozenset[int]] = {}
        self._queue: deque[int] = deque()
        self._woken = asyncio.Event()
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process lives, or waits for its restart."""
        if self.process is not None:
            return self.process.running
        stat = read_stat(self.pid) if self._start is not None else None
        return stat is not None and not stat.dead and stat.start == self._start

    def see(self, found: Mapping[int, frozenset[int]]) -> None:
        """Queue the ports that were opened since the last time."""
        before = self._told
        new = [port for port in sorted(found) if is_new(found[port], before.get(port, frozenset()))]
        self._told = found
        room = MAX_QUEUED - len(self._queue)
        if len(new) > room:
            log.warning("%d ports of process %d are not told", len(new) - room, self.pid)
        self._queue.extend(new[:room])
        self._woken.set()

    def close(self) -> None:
        """Nothing more will be seen."""
        self._closed = True
        self._woken.set()

    async def next(self) -> int | None:
        """The next port to be told; None when there will be no more."""
        while not self._queue:
            if self._closed:
                return None
            self._woken.clear()
            await self._woken.wait()
        return self._queue.popleft()
