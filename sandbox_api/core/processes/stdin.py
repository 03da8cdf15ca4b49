"""A child's stdin: bytes of any number, at the pace at which the child reads them."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_api.errors import ConflictError, UnavailableError

STALL_S = 30.0


class Stdin:
    """The writing end of a run's stdin pipe.

    Args:
        write_fd: non-blocking; this object owns it.
        stall_s: how long the child may read nothing while bytes wait, in seconds.
    """

    def __init__(self, write_fd: int, stall_s: float = STALL_S) -> None:
        self._fd = write_fd
        self._stall_s = stall_s
        self._ready: asyncio.Event = asyncio.Event()
        self._turn = asyncio.Lock()  # requests at the same time must not mix their bytes

    async def write(self, data: bytes) -> None:
        """Hand bytes to the child, waiting while its pipe is full.

        Raises:
            ConflictError: the child or a client has closed it.
            UnavailableError: the child reads nothing.
        """
        async with self._turn:
            left = memoryview(data)
            while left:
                if self._fd < 0:
                    raise ConflictError("stdin is closed")
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    await self._writable()
                except BrokenPipeError:
                    self.close()
                    raise ConflictError("the process has closed its stdin") from None

    def close(self) -> None:
        """The child reads an end of file once it has read what came before."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._ready.set()

    @property
    def open(self) -> bool:
        """Whether bytes can be written."""
        return self._fd >= 0

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready.clear()
        loop.add_writer(self._fd, self._ready.set)
        try:
            async with asyncio.timeout(self._stall_s):
                await self._ready.wait()
        except TimeoutError:
            raise UnavailableError(
                f"the process has read nothing from its stdin for {self._stall_s:g} seconds; "
                "try again"
            ) from None
        finally:
            if self._fd >= 0:
                loop.remove_writer(self._fd)


@contextmanager
def stdin_pipe(wanted: bool) -> Iterator[tuple[int, Stdin | None]]:
    """What a child is given as stdin while it is spawned.

    Args:
        wanted: whether a client will write to it.

    Yields:
        The child's descriptor (or `subprocess.DEVNULL`), and our end. The child's is closed
        afterwards, ours too when the spawn fails.
    """
    if not wanted:
        yield subprocess.DEVNULL, None
        return
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_fd, False)
    stdin = Stdin(write_fd)
    try:
        yield read_fd, stdin
    except BaseException:
        stdin.close()
        raise
    finally:
        os.close(read_fd)
