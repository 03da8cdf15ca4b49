"""Content that comes in pieces, written while the next piece is received."""

import asyncio
from contextlib import suppress
from typing import Self

from sandbox_api.core.atomic import AtomicFile
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import DEFAULT_FILE_MODE
from sandbox_api.errors import SandboxError


class FileWriter:
    """Streams into a file on the file threads, one piece ahead of the caller.

    Leaving the context without `commit` leaves the file as it was.

    Args:
        threads: where the file is written.
        file: the write; from here on this is its only owner.
    """

    def __init__(self, threads: FileThreads, file: AtomicFile) -> None:
        self._threads = threads
        self._file = file
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def write(self, data: bytes) -> None:
        """Append bytes; returns while they are being written, so that the next can be received.

        Raises:
            FailedError: `open A: …`, `write A: …`, of these bytes or of those before.
        """
        if not data:
            return
        await self._written()
        self._writing = asyncio.ensure_future(self._threads.run(self._file.write, data))

    async def commit(self, mode: int | None = None) -> None:
        """Let the file have the new content.

        Args:
            mode: permission bits of a file that did not exist; None is 0644.

        Raises:
            FailedError: `open A: …`; what was there is still there.
        """
        await self._written()
        await self._threads.run(self._file.commit, DEFAULT_FILE_MODE if mode is None else mode)

    async def _written(self) -> None:
        if self._writing is not None:
            await self._writing

    async def __aexit__(self, *_: object) -> None:
        if self._writing is not None:
            with suppress(SandboxError, asyncio.CancelledError):
                await self._writing
        # It waits on its thread for a write that is still under way, whoever else gives up.
        await asyncio.shield(self._threads.run(self._file.discard))
