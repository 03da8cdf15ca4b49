"""A child's stdin: bytes of any number, at the pace at which the child reads them."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from sandbox_api.core.processes.logfile import pending_bytes
from sandbox_api.core.processes.storage import Storage
from sandbox_api.errors import ConflictError, SandboxError, UnavailableError

STALL_S = 30.0

ChildStdin = tuple[int, "Stdin | None"]


class Stdin:
    """The writing end of a run's stdin pipe.

    Args:
        write_fd: non-blocking; this object owns it.
        on_close: told when nobody will write any more.
        stall_s: how long the child may read nothing while bytes wait, in seconds.
    """

    def __init__(
        self, write_fd: int, on_close: Callable[[], None], stall_s: float = STALL_S
    ) -> None:
        self._fd = write_fd
        self._on_close = on_close
        self._stall_s = stall_s
        self._ready = asyncio.Event()
        self._turn = asyncio.Lock()

    async def write(self, chunks: AsyncIterable[bytes]) -> None:
        """Hand bytes to the child as they come, waiting while its pipe is full.

        Writers at the same time take turns: the bytes of one never lie between those of another.

        Raises:
            ConflictError: the child or a client has closed it.
            UnavailableError: the child reads nothing, or another writer does not come to its end.
                The error's field `written` counts the bytes that were handed over.
        """
        written = 0
        try:
            async with self._taking_turns():
                async for chunk in chunks:
                    left = memoryview(chunk)
                    while left:
                        count = await self._write_some(left)
                        written, left = written + count, left[count:]
        except SandboxError as exc:
            raise type(exc)(exc.message, {"written": written}) from None

    def close(self) -> None:
        """The child reads an end of file once it has read what came before."""
        if self.open:
            self.let_go()
            self._on_close()

    def let_go(self) -> None:
        """Close our end only: another may write on, for a daemon that comes."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._ready.set()

    def fileno(self) -> int:
        """Our end; -1 when it is closed."""
        return self._fd

    @property
    def open(self) -> bool:
        """Whether bytes can be written."""
        return self._fd >= 0

    @asynccontextmanager
    async def _taking_turns(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._stall_s):
                await self._turn.acquire()
        except TimeoutError:
            raise UnavailableError(
                f"another request has been writing to stdin for {self._stall_s:g} seconds; "
                "try again when it has ended"
            ) from None
        try:
            yield
        finally:
            self._turn.release()

    async def _write_some(self, data: memoryview) -> int:
        while True:
            if self._fd < 0:
                raise ConflictError("stdin was closed while bytes for it were left")
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                await self._writable()
            except BrokenPipeError:
                self.close()
                raise ConflictError("the process has closed its stdin") from None

    async def _writable(self) -> None:
        """Wait for room. A full pipe has none until a whole page of it was read (pipe(7)), so a
        child that reads little at a time is known by what is left in the pipe."""
        unread = pending_bytes(self._fd)
        while not await self._ready_within(self._stall_s):
            before, unread = unread, pending_bytes(self._fd)
            if unread >= before:
                raise UnavailableError(
                    f"the process has read nothing from its stdin for {self._stall_s:g} seconds; "
                    "try again"
                )

    async def _ready_within(self, timeout_s: float) -> bool:
        """Wait until the pipe has room or is closed."""
        loop = asyncio.get_running_loop()
        self._ready.clear()
        loop.add_writer(self._fd, self._ready.set)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return self._ready.is_set()
        finally:
            if self._fd >= 0:
                loop.remove_writer(self._fd)
        return True


@contextmanager
def stdin_pipe(storage: Storage | None, on_close: Callable[[], None]) -> Iterator[ChildStdin]:
    """What a child is given as stdin while it is spawned.

    Args:
        storage: where its pipe is made; None where no client will write to it.
        on_close: told when nobody will write any more.

    Yields:
        The child's descriptor (or `subprocess.DEVNULL`), and our end. The child's is closed
        afterwards, ours too when the spawn fails.
    """
    if storage is None:
        yield subprocess.DEVNULL, None
        return
    ends = storage.open_stdin()
    stdin = Stdin(ends.write_fd, on_close)
    try:
        yield ends.read_fd, stdin
    except BaseException:
        stdin.close()
        raise
    finally:
        os.close(ends.read_fd)
