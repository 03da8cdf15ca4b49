"""Directories sent and received as tar streams.

A piece is read or written on a file thread while the one before is sent or the next is received, so
that no thread waits for a client.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from sandbox_api.core.archives.packing import Packing
from sandbox_api.core.archives.unpacking import Unpacking
from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.directories import make_directory
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.metadata import OwnerNames
from sandbox_api.core.paths import DEFAULT_DIRECTORY_MODE, Location, printable
from sandbox_api.core.refusals import attempt, refuse_reserved
from sandbox_api.errors import FailedError, SandboxError

log = logging.getLogger(__name__)


class Unpacked(NamedTuple):
    """What an archive held.

    Attributes:
        entries: files, links and directories.
        bytes: of the files.
    """

    entries: int
    bytes: int


class Archives:
    """Archives of directories.

    Args:
        threads: where blocking work runs, and as whom.
        fsync: whether every write waits for the disk.
    """

    def __init__(self, threads: FileThreads, *, fsync: bool = False) -> None:
        self._threads = threads
        self._fsync = fsync
        self._owners = OwnerNames()

    async def pack(self, location: Location, *, compressed: bool) -> AsyncGenerator[bytes, None]:
        """A directory as pieces of an archive; close the iterator.

        Args:
            location: the directory, which was found to be one.
            compressed: whether to compress by gzip.

        Raises:
            OSError: from the iterator: the system refused in the middle.
        """
        packing = Packing(
            location.absolute,
            compressed=compressed,
            owners=self._owners,
            stopped=lambda: self._threads.closing,
        )
        reading = asyncio.ensure_future(self._threads.run(packing.read))
        try:
            while (piece := await reading) is not None:
                reading = asyncio.ensure_future(self._threads.run(packing.read))
                if piece:
                    yield piece
            if packing.left_out:
                log.warning(
                    "%d entries are not in the archive, for they could not be read",
                    packing.left_out,
                    extra={"path": printable(location.absolute)},
                )
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await asyncio.shield(self._threads.run(packing.close))

    @asynccontextmanager
    async def unpack(
        self,
        location: Location,
        *,
        compressed: bool,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> AsyncIterator["Receiver"]:
        """What an archive is fed to, while the context lasts.

        Args:
            location: a directory, or a path that ends in `/` and is made one.
            compressed: whether it comes compressed by gzip.
            sync: whether to wait for the disk.
            condition: what must hold of the directory before anything is unpacked: that it is there
                or that it is not, for it has no version.

        Raises:
            FailedError: it is no directory.
            PreconditionError: the condition does not hold.
        """
        refuse_reserved(location)
        unpacking = await self._threads.run(
            _begin, location, condition, compressed=compressed, sync=sync or self._fsync
        )
        receiver = Receiver(self._threads, unpacking)
        try:
            yield receiver
        finally:
            await receiver.close()


class Receiver:
    """Feeds an archive on the file threads, one piece ahead of the caller.

    Args:
        threads: where it is unpacked.
        unpacking: the archive; from here on this is its only owner.
    """

    def __init__(self, threads: FileThreads, unpacking: Unpacking) -> None:
        self._threads = threads
        self._unpacking = unpacking
        self._feeding: asyncio.Future[None] | None = None

    async def feed(self, data: bytes) -> None:
        """Take bytes; returns while they are being unpacked, so that the next can be received.

        Raises:
            FailedError: `error unpacking archive: …`, of these bytes or of those before.
        """
        await self._fed()
        self._feeding = asyncio.ensure_future(self._threads.run(self._unpacking.feed, data))

    async def finish(self) -> Unpacked:
        """The archive has come as a whole.

        Raises:
            FailedError: as `feed`, or it was cut off.
        """
        await self._fed()
        await self._threads.run(self._unpacking.finish)
        return Unpacked(self._unpacking.entries, self._unpacking.bytes)

    async def close(self) -> None:
        """Give up what is not finished."""
        if self._feeding is not None:
            with suppress(SandboxError, asyncio.CancelledError):
                await self._feeding
        # It waits on its thread for what is still under way, whoever else gives up.
        await asyncio.shield(self._threads.run(self._unpacking.discard))

    async def _fed(self) -> None:
        if self._feeding is not None:
            await self._feeding


def _begin(location: Location, condition: Condition, *, compressed: bool, sync: bool) -> Unpacking:
    path = location.absolute
    with attempt("error unpacking archive"):
        new = location.shown.endswith("/") and not os.path.lexists(path)
        if not new and not os.path.isdir(path):
            raise FailedError(
                f"{printable(path)} is no directory; end the path with / to make one, or send "
                "the archive as application/octet-stream to store it as a file"
            )
        make_directory(path, DEFAULT_DIRECTORY_MODE, condition)
    return Unpacking(path, compressed=compressed, sync=sync)
