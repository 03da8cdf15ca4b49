"""The recent events of one watch, in their order, and readers that are cursors into them.

So none holds up another, and one that stalls costs no memory: it is told how many events it missed.
Numbers begin at the microseconds of the clock, so that those of an earlier watch of the same
directory, or of an earlier daemon, are known as such: no watch has a million events in a second for
long.
"""

import asyncio
import time

from sandbox_api.core.watch.events import Event, trouble

CAPACITY = 32 * 1024
TRIM = 1024  # how many of the oldest go at once
READ_EVENTS = 512

NumberedEvent = tuple[int, Event]


class History:
    """Recent events of one watch.

    Args:
        path: the watched directory as events show it.
        capacity: how many events are kept; None for the usual number.

    Attributes:
        last: the number of the newest event; where there is none, that before the first.
        ended: whether nothing more will come.
    """

    def __init__(self, path: str, capacity: int | None = None) -> None:
        self.path = path
        self.last = time.time_ns() // 1000
        self.ended = False
        self._capacity = capacity or CAPACITY
        self._events: list[Event] = []
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def before(self) -> int:
        """The number before that of the oldest event that is kept."""
        return self.last - len(self._events)

    def add(self, event: Event) -> None:
        """The next event."""
        if self.ended:
            return
        self._events.append(event)
        self.last += 1
        if len(self._events) >= self._capacity + TRIM:
            del self._events[:TRIM]
        if self._waiting:
            self._wake()

    def end(self, *events: Event) -> None:
        """Nothing more will come, after these."""
        for event in events:
            self.add(event)
        self.ended = True
        self._wake()

    def after(self, number: int, limit: int) -> list[NumberedEvent]:
        """The events that come after a number, at most `limit` of them."""
        start = number - self.before
        events = self._events[start : start + limit]
        return list(enumerate(events, number + 1))

    async def changed(self, number: int, silence_s: float) -> bool:
        """Wait for what comes after a number, or for the end; False after a silence in seconds."""
        if self.last > number or self.ended:
            return True
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(silence_s):
                await waiting
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiting)
        return True

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()


class Reader:
    """One reader of a watch, at its own pace.

    Args:
        history: what it reads.
        since: the number of the last event that the reader has; None to begin now.
    """

    def __init__(self, history: History, since: int | None = None) -> None:
        self._history = history
        self._number = history.last if since is None else since

    def start(self) -> NumberedEvent:
        """An event that says where the reader begins, and what is missing before."""
        history = self._history
        if history.before <= self._number <= history.last:
            return self._number, Event("", "", history.path)
        missing = self._number
        self._number = history.last
        return self._number, trouble(
            history.path,
            f"what came after event {missing} is not known any more; list the directory again",
        )

    async def next(self, silence_s: float, limit: int = READ_EVENTS) -> list[NumberedEvent] | None:
        """Wait for what comes next.

        Args:
            silence_s: how long to wait for it, in seconds.
            limit: how many events are wanted at most.

        Returns:
            Events; none after a silence; None at the end, for good.
        """
        history = self._history
        if (missed := history.before - self._number) > 0:
            self._number = history.before
            text = f"{missed} events were lost, since they were read too slowly"
            return [(self._number, trouble(history.path, f"{text}; list the directory again"))]
        if not await history.changed(self._number, silence_s):
            return []
        events = history.after(self._number, limit)
        if not events:
            return None
        self._number = events[-1][0]
        return events
