"""A pseudo terminal: what the daemon holds is its master side (pty(7))."""

import asyncio
import os
import termios
from collections.abc import Callable

from sandbox_api.core.identity import Identity
from sandbox_api.errors import FailedError, os_reason

READ_BYTES = 64 << 10
MODE = 0o600


class Pty:
    """The master side, on the event loop.

    Args:
        master: its descriptor, which this object closes.
    """

    def __init__(self, master: int) -> None:
        self._master = master
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self._ready: asyncio.Future[None] | None = None
        self._listening = False
        os.set_blocking(master, False)

    @classmethod
    def open(cls, identity: Identity | None) -> tuple["Pty", int]:
        """A new one.

        Args:
            identity: who shall own it; None for the daemon's user.

        Returns:
            It, and a descriptor of the side where the program is; the caller closes that one.

        Raises:
            FailedError: there are none here, or no more.
        """
        try:
            master, slave = os.openpty()
        except OSError as exc:
            raise FailedError(
                f"no pseudo terminal: {os_reason(exc)}; /dev/ptmx and a devpts file system at "
                "/dev/pts are needed"
            ) from None
        if identity is not None:
            os.fchown(slave, identity.uid, identity.gid)
        os.fchmod(slave, MODE)
        return cls(master), slave

    @property
    def hides_input(self) -> bool:
        """Whether the program reads lines that are not shown, as for a password.

        A shell with a line editor shows what is typed itself, and reads no lines but keys.
        """
        try:
            flags = termios.tcgetattr(self._master)[3]
        except (termios.error, ValueError):
            return True
        return bool(flags & termios.ICANON) and not flags & termios.ECHO

    def resize(self, cols: int, rows: int) -> None:
        """Tell the program how large its window is; it gets SIGWINCH (ioctl_tty(2))."""
        termios.tcsetwinsize(self._master, (rows, cols))

    def listen(self, on_readable: Callable[[], None]) -> None:
        """Call back while there is output."""
        if self._master >= 0 and not self._listening:
            self._loop.add_reader(self._master, on_readable)
            self._listening = True

    def unlisten(self) -> None:
        """Leave output where it is: the program waits once some kilobytes are full."""
        if self._listening:
            self._loop.remove_reader(self._master)
            self._listening = False

    def read(self) -> bytes | None:
        """What there is of output; empty where there is none now, None where none can come."""
        try:
            return os.read(self._master, READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:  # EIO: no program has it open any more
            return None

    async def write(self, data: bytes) -> None:
        """Type something; waits while the program does not read. One caller after the other."""
        async with self._writing:
            view = memoryview(data)
            while view and self._master >= 0:
                try:
                    view = view[os.write(self._master, view) :]
                except BlockingIOError:
                    await self._writable()
                except OSError:
                    return

    async def _writable(self) -> None:
        self._ready = self._loop.create_future()
        self._loop.add_writer(self._master, _resolve, self._ready)
        try:
            await self._ready
        finally:
            if self._master >= 0:
                self._loop.remove_writer(self._master)

    def close(self) -> None:
        """Hang up: who still has it open gets SIGHUP, or an error."""
        if self._master >= 0:
            self.unlisten()
            self._loop.remove_writer(self._master)
            os.close(self._master)
            self._master = -1
            if self._ready is not None:
                _resolve(self._ready)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
