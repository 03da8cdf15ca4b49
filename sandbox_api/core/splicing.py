"""Moving bytes from one socket to another within the kernel (splice(2)), never through Python.

It takes two thirds of the processor time of reading and writing them. Where the kernel, or a filter
before it, does not let sockets be spliced, they are read and written.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")

PIPE_BYTES = 1 << 20
COPIED_BYTES = 1 << 18
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_NOT_HERE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


async def splice(source: int, target: int, count: int) -> int:
    """Move bytes until there are so many, or the source ends.

    Args:
        source: a descriptor of a socket that does not block.
        target: the same. Both may belong to transports of the event loop; the source's must have
            stopped reading, and the target's must have nothing left to write.
        count: how many bytes.

    Returns:
        How many were moved; fewer than `count` where the source has ended.

    Raises:
        OSError: one of them is broken.
    """
    with ExitStack() as stack:
        sockets = _duplicate(source, stack), _duplicate(target, stack)
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, read_end)
        stack.callback(os.close, write_end)
        with suppress(OSError):  # it may be more than the user's share
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        moved = 0
        try:
            async for more in _spliced(*sockets, count, (read_end, write_end)):
                moved += more
        except OSError as exc:
            if exc.errno not in _NOT_HERE:
                raise
            moved += await _copy(*sockets, count - moved, _contents(read_end))
        return moved


async def _spliced(
    source: int, target: int, count: int, pipe: tuple[int, int]
) -> AsyncIterator[int]:
    """The bytes of each step; what was not yielded when it fails is in the pipe."""
    read_end, write_end = pipe
    while count:
        most = min(count, PIPE_BYTES)
        held = await _readable(source, partial(_splice, source, write_end, most))
        if not held:
            return
        count -= held
        while held:
            moved = await _writable(target, partial(_splice, read_end, target, held))
            held -= moved
            yield moved


def _splice(source: int, target: int, count: int) -> int:
    return os.splice(source, target, count, flags=_FLAGS)


async def _copy(source: int, target: int, count: int, held: bytes) -> int:
    """The same through Python, after what has been read already."""
    moved = 0
    while moved < count:
        most = min(count - moved, COPIED_BYTES)
        held = held or await _readable(source, partial(os.read, source, most))
        if not held:
            break
        written = await _writable(target, partial(os.write, target, held))
        held, moved = held[written:], moved + written
    return moved


def _contents(pipe: int) -> bytes:
    """What a pipe holds."""
    try:
        return os.read(pipe, PIPE_BYTES)
    except BlockingIOError:
        return b""


def _duplicate(fd: int, stack: ExitStack) -> int:
    """Another number for a descriptor: the event loop lets nobody wait for one of a transport."""
    duplicate = os.dup(fd)
    stack.callback(os.close, duplicate)
    return duplicate


async def _readable(fd: int, attempt: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    return await _when_ready(fd, attempt, loop.add_reader, loop.remove_reader)


async def _writable(fd: int, attempt: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    return await _when_ready(fd, attempt, loop.add_writer, loop.remove_writer)


async def _when_ready(
    fd: int,
    attempt: Callable[[], T],
    add: Callable[..., None],
    remove: Callable[[int], object],
) -> T:
    """Attempt something until the socket is ready for it."""
    await asyncio.sleep(0)  # two fast sockets leave room for others
    while True:
        try:
            return attempt()
        except BlockingIOError:
            ready = asyncio.Event()
            add(fd, ready.set)
            try:
                await ready.wait()
            finally:
                remove(fd)
