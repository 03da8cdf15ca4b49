"""Something that happens once and can be waited for; small, since thousands are kept."""

import asyncio


class Latch:
    """An event that is never reset: an `asyncio.Event` without its queue until somebody waits."""

    __slots__ = ("_happened", "_waiting")

    def __init__(self, *, happened: bool = False) -> None:
        self._happened = happened
        self._waiting: asyncio.Event | None = None

    def set(self) -> None:
        """It has happened: whoever waits goes on."""
        self._happened = True
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._happened

    async def wait(self) -> None:
        """Wait until it happens."""
        if not self._happened:
            if self._waiting is None:
                self._waiting = asyncio.Event()
            await self._waiting.wait()
