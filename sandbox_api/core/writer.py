"""Content that comes in pieces, written while the next piece is received."""

import asyncio
import os
from contextlib import suppress
from typing import Protocol, Self

from sandbox_api.core.atomic import AtomicFile
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import DEFAULT_FILE_MODE
from sandbox_api.errors import SandboxError


class Sink(Protocol):
    """Where pieces go; both methods block, and exclude each other."""

    def write(self, data: bytes, /) -> None:
        """Take the next piece."""

    def discard(self) -> None:
        """Give up what is not finished; does nothing after the end."""


class PieceWriter:
    """Streams into a sink on the file threads, one piece ahead of the caller.

    Leaving the context discards what is not finished by then.

    Args:
        threads: where the sink is called.
        sink: from here on this is its only owner.
    """

    def __init__(self, threads: FileThreads, sink: Sink) -> None:
        self.threads = threads
        self._sink = sink
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
        await self.written()
        self._writing = asyncio.ensure_future(self.threads.run(self._sink.write, data))

    async def written(self) -> None:
        """Wait until all bytes so far are written.

        Raises:
            FailedError: as in `write`.
        """
        if self._writing is not None:
            await self._writing

    async def __aexit__(self, *_: object) -> None:
        if self._writing is not None:
            with suppress(SandboxError, asyncio.CancelledError):
                await self._writing
        # It waits on its thread for a write that is still under way, whoever else gives up.
        await asyncio.shield(self.threads.run(self._sink.discard))


class FileWriter(PieceWriter):
    """Streams into a file; one that is not committed stays as it was.

    Args:
        threads: where the file is written.
        file: the write; from here on this is its only owner.
    """

    def __init__(self, threads: FileThreads, file: AtomicFile) -> None:
        super().__init__(threads, file)
        self._file = file

    async def commit(self, mode: int | None = None) -> os.stat_result:
        """Let the file have the new content; returns its status.

        Args:
            mode: permission bits of a file that did not exist; None is 0644.

        Raises:
            FailedError: `open A: …`; what was there is still there.
            PreconditionError: the same, since a condition does not hold.
        """
        await self.written()
        return await self.threads.run(
            self._file.commit, DEFAULT_FILE_MODE if mode is None else mode
        )
