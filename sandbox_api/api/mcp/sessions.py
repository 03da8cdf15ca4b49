"""Sessions: what a client may cancel, and where it is told what it subscribed to.

Nobody needs one: a request without the id of a session, or with one that is gone, is answered all
the same. So a client goes on after a restart of the daemon.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox_api.api.mcp.jsonrpc import Id, Json
from sandbox_api.api.mcp.tools import Call

MOST_SESSIONS: Final = 1000
MOST_WAITING: Final = 200
MOST_SUBSCRIPTIONS: Final = 100

Key = tuple[type, Id]  # for JSON 1 and "1" differ


@dataclass(slots=True)
class _Running:
    call: Call
    task: "asyncio.Task[Any]"


@dataclass(slots=True, eq=False)
class Session:
    """One client, from `initialize` on.

    Attributes:
        id: unguessable.
        version: of the protocol.
        log_level: the least level that it wants to be told.
        subscriptions: what follows each URI that it subscribed to.
        used_at: when it was last heard of, monotonic seconds.
    """

    version: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    log_level: str = "info"
    subscriptions: "dict[str, asyncio.Task[None]]" = field(default_factory=dict)
    used_at: float = field(default_factory=time.monotonic)
    _running: dict[Key, _Running] = field(default_factory=dict)
    _waiting: deque[Json] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _streams: int = 0
    ended: bool = False

    @contextmanager
    def running(self, number: Id, call: Call) -> Iterator[None]:
        """While the context lasts, the client can cancel this call."""
        task = asyncio.current_task()
        if task is None:  # never: calls run in tasks
            yield
            return
        key = (type(number), number)
        self._running[key] = mine = _Running(call, task)
        try:
            yield
        finally:
            if self._running.get(key) is mine:
                del self._running[key]

    def cancel(self, number: object) -> None:
        """Cancel a call; one that has ended, or never was, is no error (MCP)."""
        if isinstance(number, str | int | float):
            running = self._running.get((type(number), number))
            if running is not None:
                running.call.cancelled = True
                running.task.cancel()

    def tell(self, message: Json) -> None:
        """Leave a message for the client, once; of too many the oldest go."""
        if message not in self._waiting:
            self._waiting.append(message)
            self._changed.set()

    def open_stream(self) -> int:
        """A client listens; who listened before has lost its connection, and its stream ends."""
        self._streams += 1
        self._changed.set()
        return self._streams

    async def next(self, stream: int, timeout_s: float) -> list[Json] | None:
        """What is to be told.

        Args:
            stream: as `open_stream` gave it.
            timeout_s: how long to wait for it.

        Returns:
            Nothing after the time; None when the stream is over.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._waiting or self._is_over(stream)):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return []
        if self._is_over(stream):
            return None
        found = list(self._waiting)
        self._waiting.clear()
        return found

    def _is_over(self, stream: int) -> bool:
        return self.ended or stream != self._streams

    def end(self) -> None:
        """Tell nothing more. What it has started goes on."""
        self.ended = True
        self._changed.set()
        for task in self.subscriptions.values():
            task.cancel()
        self.subscriptions.clear()


class Sessions:
    """All sessions; over the limit, the one that was longest unheard of ends."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def begin(self, version: str) -> Session:
        """A new one."""
        if len(self._sessions) >= MOST_SESSIONS:
            self.end(min(self._sessions.values(), key=lambda one: one.used_at))
        session = Session(version)
        self._sessions[session.id] = session
        return session

    def find(self, number: str | None) -> Session | None:
        """The one with that id."""
        session = self._sessions.get(number or "")
        if session is not None:
            session.used_at = time.monotonic()
        return session

    def end(self, session: Session) -> None:
        """End one."""
        self._sessions.pop(session.id, None)
        session.end()

    def end_all(self) -> None:
        """The daemon stops."""
        for session in list(self._sessions.values()):
            self.end(session)
