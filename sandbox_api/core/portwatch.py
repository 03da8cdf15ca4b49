"""Everything that is open in the sandbox, and what changes, from one poller for all who want it.

The kernel tells nobody when a socket begins to listen, so this looks again and again, and only
while somebody watches. A look reads /proc/net, 0.2 ms where there are few sockets and more where
there are thousands; the pause after it is 50 times as long, from 0.1 to 2 s, so that watching costs
2 % of a core at most. Whose a socket is (/proc/*/fd) is looked up once, when it is new.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.openings import History, Holder, Opening, PortEvent, is_new
from sandbox_api.core.ports import Place, holders, open_places
from sandbox_api.core.processes import Processes
from sandbox_api.core.processes.sockets import Candidate, find_owner
from sandbox_api.core.processes.tree import all_stats, started_at
from sandbox_api.errors import UnavailableError

log = logging.getLogger(__name__)

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
PAUSE_PER_COST = 50
WATCHED_GAP_S = 2 * LONGEST_PAUSE_S
RECENT = 1000  # of ended processes those that are asked for their children


class PortWatch:
    """The open ports of the sandbox.

    Args:
        threads: where /proc is read, as the workload user, who sees its own processes only (G29).
        processes: ours, for their names.
    """

    def __init__(self, threads: FileThreads, processes: Processes) -> None:
        self._threads = threads
        self._processes = processes
        self._history = History(time.time_ns() // 1_000_000)  # above those of earlier daemons
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None
        self._watchers = 0
        self._poller: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def number(self) -> int:
        """The number of the last event."""
        return self._history.number

    @property
    def watched(self) -> bool:
        """Whether the poller runs."""
        return self._poller is not None

    async def list(self) -> Sequence[Opening]:
        """What is open now, by protocol, port and address."""
        await self.look()
        return [self._history.open[place] for place in sorted(self._history.open)]

    def since(self, number: int) -> Sequence[PortEvent] | None:
        """The events after a number; None where some are gone, or it is no number of ours."""
        return self._history.since(number)

    def state(self) -> Sequence[PortEvent]:
        """What was open at the last look, as events."""
        return self._history.state(time.time())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While somebody is in the context, the poller runs."""
        self._watchers += 1
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self.close()

    def close(self) -> None:
        """Stop the poller."""
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None

    async def changed(self, number: int, timeout_s: float) -> bool:
        """Wait until there is an event after a number.

        Args:
            number: the last one that the caller knows.
            timeout_s: seconds to wait at most.

        Returns:
            Whether there is.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.number == number:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def look(self) -> float:
        """Look once, on a thread; returns the seconds that it took there.

        Raises:
            UnavailableError: the system is short of descriptors or memory.
        """
        async with self._looking:
            places, cost_s = await self._threads.run(_look)
            known = self._history.inodes()
            new = [i for place, i in places.items() if is_new(i, known.get(place, frozenset()))]
            found = await self._find_holders(frozenset().union(*new)) if new else {}
            now, before = asyncio.get_running_loop().time(), self.number
            watched = self._looked_at is not None and now - self._looked_at < WATCHED_GAP_S
            self._looked_at = now
            self._history.update(places, found, time.time(), watched=watched)
        if self.number != before:
            self._changed.set()
            self._changed = asyncio.Event()
        return cost_s

    async def _find_holders(self, inodes: Collection[int]) -> Mapping[int, Holder]:
        processes = self._processes.list()
        older, recent = processes[:-RECENT], processes[-RECENT:]
        ours = [Candidate(p) for p in (*(p for p in older if p.running), *recent)]
        return await self._threads.run(_find_holders, inodes, ours)

    async def _poll(self) -> None:
        while True:
            try:
                cost_s = await self.look()
            except (OSError, UnavailableError) as exc:  # it may pass
                cost_s = LONGEST_PAUSE_S
                log.warning("the open ports cannot be read: %s", exc)
            pause_s = min(max(SHORTEST_PAUSE_S, PAUSE_PER_COST * cost_s), LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)


def _look() -> tuple[dict[Place, frozenset[int]], float]:
    """What is open, and the seconds of processor time that it took to find out."""
    begun_s = time.thread_time()
    return open_places(), time.thread_time() - begun_s


def _find_holders(inodes: Collection[int], ours: Sequence[Candidate]) -> dict[int, Holder]:
    stats = {stat.pid: stat for stat in all_stats()}
    found = {}
    for inode, pid in holders(inodes, stats).items():
        name, owner = stats[pid].name, find_owner(pid, stats, ours)
        found[inode] = Holder(pid, name, owner, started_at(stats[pid]))
    return found
