"""Real shells on real pseudo terminals."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sandbox_api.core.environment import Environment
from sandbox_api.core.identity import FileThreads, Identity
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes.reaper import Reaper
from sandbox_api.core.terminals import Terminal, Terminals, TerminalSpec, View

VARIABLES = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PS1": "$ ", "SHELL": "/bin/sh"}


class Reader:
    """Reads one view, and keeps what it has read."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.text = b""
        self.ended = False

    async def until(self, wanted: bytes) -> bytes:
        """All that was read, once it holds these bytes."""
        while wanted not in self.text:
            try:
                async with asyncio.timeout(10):
                    data = await self.view.read()
            except TimeoutError:
                pytest.fail(f"no {wanted!r} in {self.text!r}")
            else:
                assert data is not None, self.text
                self.text += data
        return self.text

    async def until_end(self) -> bytes:
        """All that was read, once there is no more."""
        async with asyncio.timeout(10):
            while (data := await self.view.read()) is not None:
                self.text += data
        return self.text


class Desk:
    """All terminals of a test, with short ways to open one and to read."""

    def __init__(self, terminals: Terminals) -> None:
        self.terminals = terminals

    async def open(self, **spec: object) -> tuple[Terminal, Reader]:
        """Attach to a session; new or not."""
        terminal, view = await self.terminals.attach(TerminalSpec(**spec))  # type: ignore[arg-type]
        return terminal, Reader(view)

    async def shell(self, **spec: object) -> tuple[Terminal, Reader]:
        """Begin a session, and wait until its shell asks for a command."""
        terminal, reader = await self.open(**spec)
        await reader.until(b"$ ")
        return terminal, reader


OpenDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def open_desk(tmp_path: Path) -> AsyncIterator[OpenDesk]:
    """`desk = await open_desk(max_sessions=1)`."""
    async with AsyncExitStack() as stack:
        # as in the daemon, it is not ignored; a test run in the background of a shell begins so
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGINT, before)

        async def open_one(
            *,
            variables: dict[str, str] | None = None,
            identity: Identity | None = None,
            max_sessions: int = 8,
            idle_s: float = 600.0,
        ) -> Desk:
            reaper, threads = Reaper(), FileThreads(identity)
            stack.callback(reaper.close)
            stack.callback(threads.close)
            terminals = Terminals(
                Environment({**VARIABLES, **(variables or {})}),
                threads,
                PathResolver(str(tmp_path), str(tmp_path)),
                reaper,
                max_sessions,
                idle_s,
            )
            await stack.enter_async_context(terminals.open())
            return Desk(terminals)

        yield open_one


@pytest.fixture
async def desk(open_desk: OpenDesk) -> Desk:
    """Terminals with default limits."""
    return await open_desk()
