"""Passing a body on while it comes, from one connection to another.

What is small goes through Python. Where much data comes next with nothing between it, both
transports are held still, and the kernel moves it from socket to socket.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from aiohttp.http import StreamWriter
from aiohttp.streams import StreamReader

from sandbox_api.api.bodies import Receiver
from sandbox_api.core.splicing import Splice

SPLICED_BYTES: Final = 1 << 18  # where it begins to be worth a pipe
BETWEEN_BYTES: Final = 4096  # more than stands between two chunks


async def relay(source: Receiver, content: StreamReader, writer: StreamWriter) -> None:
    """Pass a body on, and end it.

    When the source ends in the middle of it, that is an exception of the content, as it is where
    aiohttp reads all of it.

    Args:
        source: the connection on which it comes.
        content: what has been read of it.
        writer: takes it, as it is or in chunks.

    Raises:
        ConnectionError: the target is broken.
    """
    with ExitStack() as stack:
        way: Splice | None = None
        async for data in content.iter_any():
            await writer.write(data)
            if _is_much(source, content):
                way = way or _open(source, writer, stack)
                if way is not None:
                    await _splice(source, content, writer, way)
        await writer.write_eof()


def _is_much(source: Receiver, content: StreamReader) -> bool:
    """Whether much of the body is to come that nobody has to look at."""
    return source.clear >= SPLICED_BYTES and source.is_receiving(content)


def _open(source: Receiver, writer: StreamWriter, stack: ExitStack) -> Splice | None:
    """A way within the kernel; None where a connection is lost, or no descriptors are left."""
    try:
        way = Splice(_descriptor(source.transport), _descriptor(writer.transport))
    except OSError:
        return None
    return stack.enter_context(way)


def _descriptor(transport: asyncio.Transport | None) -> int:
    if transport is None:
        raise ConnectionResetError("connection lost")
    return int(transport.get_extra_info("socket").fileno())


async def _splice(
    source: Receiver, content: StreamReader, writer: StreamWriter, way: Splice
) -> None:
    """Move what is clear, and what is clear behind it, until there is little, or the end."""
    held = content.read_nowait()
    async with _held_still(source, writer):  # nothing has come since: what is clear comes next
        while True:
            if held:
                await writer.write(held)
            if not _is_much(source, content) or not await _move(source, writer, way):
                return
            _read_between(source)
            held = content.read_nowait()


@asynccontextmanager
async def _held_still(source: Receiver, writer: StreamWriter) -> AsyncIterator[None]:
    """Both transports leave their sockets to us."""
    writing = writer.transport
    if writing is None:
        raise ConnectionResetError("connection lost")
    source.hold()
    writing.set_write_buffer_limits(high=0)
    try:
        yield
    finally:
        writing.set_write_buffer_limits()
        source.release()


async def _move(source: Receiver, writer: StreamWriter, way: Splice) -> bool:
    """What is clear, as one chunk where there are chunks; whether it was all there."""
    before, count = way.taken, source.clear
    if writer.chunked:
        _write(writer, b"%x\r\n" % count)
    await writer.drain()
    try:
        moved = await way.move(count)
    finally:
        source.skip(way.taken - before)
    writer.output_size += moved
    if writer.chunked and moved == count:
        _write(writer, b"\r\n")
    return moved == count


def _write(writer: StreamWriter, data: bytes) -> None:
    if writer.transport is None:
        raise ConnectionResetError("connection lost")
    writer.transport.write(data)


def _read_between(source: Receiver) -> None:
    """What stands between two chunks: a read of little, for what follows is clear again."""
    try:
        source.data_received(os.read(_descriptor(source.transport), BETWEEN_BYTES))
    except OSError:
        return  # nothing there yet; or it is broken, which the transport will see
