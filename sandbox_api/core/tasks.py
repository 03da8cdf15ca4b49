"""Work that ends even when whoever asked for it leaves."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

EXPIRY_CHECK_S: Final = 600.0
FIRST_CHECK_S: Final = 5.0


class Tasks:
    """Pieces of work of one owner."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def settle(
        self, work: Coroutine[Any, Any, T], abandoned: Callable[[T], None] | None = None
    ) -> T:
        """Do something to its end and return its result.

        Args:
            work: what is to be done.
            abandoned: called with a result that nobody waits for any more.
        """
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._settled)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if abandoned is not None:
                task.add_done_callback(lambda done: _hand_over(done, abandoned))
            raise

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone, and asyncio would complain

    async def close(self, timeout_s: float) -> None:
        """Wait for what is under way.

        Args:
            timeout_s: seconds to wait at most.
        """
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)


async def expire_regularly(expire: Callable[[], Awaitable[None]], max_age_s: float) -> None:
    """Let what is too old go, again and again; first when the daemon has started in peace.

    Args:
        expire: does it.
        max_age_s: how old something may become, in seconds; 0 is any age.
    """
    pause_s = FIRST_CHECK_S
    while max_age_s:
        await asyncio.sleep(min(max_age_s / 4, pause_s))
        await expire()
        pause_s = EXPIRY_CHECK_S


def _hand_over(task: asyncio.Task[T], abandoned: Callable[[T], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        abandoned(task.result())
