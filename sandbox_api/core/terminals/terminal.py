"""One terminal: a shell on a pseudo terminal, and the clients that look at it.

What the shell writes goes to a history of bounded size, and each client reads on in it at its own
pace. The pace of the output is that of the fastest client: when all of them are behind, the
terminal is not read, and the program waits. A client that cannot keep up with the others, or that
takes nothing for some seconds, holds nobody up; it is told how much it missed.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from sandbox_api.core.processes.reaper import Child, Exit
from sandbox_api.core.processes.tree import ProcessStat, find_tree, send_signal, wait_for_ends
from sandbox_api.core.terminals.history import History
from sandbox_api.core.terminals.pty import Pty

BEHIND_BYTES = 128 << 10
STALLED_S = 2.0
FRAME_BYTES = 32 << 10
HANG_UP_S = 1.0
KILL_S = 5.0
RESET = b"\x1b[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """What runs in a terminal.

    Attributes:
        program: as it was asked for.
        directory: where it began, absolute.
        child: its process, the leader of the terminal's session.
    """

    program: str
    directory: str
    child: Child


class View:
    """One client's place in the output of a terminal."""

    def __init__(self, terminal: "Terminal", offset: int) -> None:
        self._terminal = terminal
        self._more = asyncio.Event()
        self._begin: bytes = RESET if terminal.history.end > offset else b""
        self.offset = offset
        self.took_at = asyncio.get_running_loop().time()

    async def read(self) -> bytes | None:
        """The next output; waits for it. None when the shell has ended and all was read."""
        history = self._terminal.history
        while self.offset == history.end:
            if self._terminal.exit is not None:
                return None
            self._more.clear()
            await self._more.wait()
        data, self._begin = self._begin + self._missed(), b""
        chunk = history.read(self.offset, FRAME_BYTES)
        self.offset += len(chunk)
        self.took_at = asyncio.get_running_loop().time()
        self._terminal.keep_pace()
        return data + chunk

    def wake(self) -> None:
        """There is more, or no more will come."""
        self._more.set()

    def close(self) -> None:
        """This client has left."""
        self._terminal.detach(self)

    def _missed(self) -> bytes:
        """What the history has forgotten that this client had not read, in words."""
        history = self._terminal.history
        if self.offset >= history.start:
            return b""
        begin = history.begin()
        missed, self.offset = begin - self.offset, begin
        return RESET + f"\r\n[{missed} bytes skipped: the connection is too slow]\r\n".encode()


class Terminal:
    """A session.

    Args:
        identifier: by which clients find it.
        shell: what runs in it.
        pty: its master side, which this object closes.
        size: columns and rows.

    Attributes:
        history: its last output.
        exit: how the shell ended; None while it runs.
        ended: done once the shell has ended, its output is read and its session is gone.
    """

    def __init__(self, identifier: str, shell: Shell, pty: Pty, size: tuple[int, int]) -> None:
        self.identifier = identifier
        self.shell = shell
        self.history = History()
        self.exit: Exit | None = None
        self.started_at = self.active_at = time.time()
        self.cols, self.rows = size
        self.on_views: Callable[[], None] | None = None  # a client came or left; returns at once
        self._pty = pty
        self._views: set[View] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pty.listen(self._readable)
        self.ended = self._loop.create_task(self._follow())

    @property
    def clients(self) -> int:
        """How many look at it."""
        return len(self._views)

    @property
    def hides_input(self) -> bool:
        """Whether what is typed now is not shown, as a password is not."""
        return self._pty.hides_input

    def attach(self) -> View:
        """Look at it: the last output first, then what comes."""
        view = View(self, self.history.begin())
        self._views.add(view)
        self._touch()
        self.keep_pace()
        return view

    def detach(self, view: View) -> None:
        """A client has left."""
        self._views.discard(view)
        self._touch()
        self.keep_pace()

    def resize(self, cols: int, rows: int) -> None:
        """Give it another size; nothing when it has ended."""
        if self.exit is None and cols > 0 and rows > 0:
            self.cols, self.rows = cols, rows
            self._pty.resize(cols, rows)

    async def write(self, data: bytes) -> None:
        """Type something; waits while the program does not read."""
        self.active_at = time.time()
        await self._pty.write(data)

    async def hang_up(self) -> None:
        """End it: SIGHUP to everybody in its session, SIGKILL after a second."""
        await self._end_session()
        await asyncio.wait([self.ended], timeout=KILL_S)

    def close(self) -> None:
        """Let go of it without waiting: who has the terminal open gets SIGHUP from the kernel."""
        self.ended.cancel()
        self._stop_timer()
        self._pty.close()

    # -- output

    def keep_pace(self) -> None:
        """Read on, or let the program wait, by how far the clients are."""
        self._stop_timer()
        if not self._all_behind():
            self._pty.listen(self._readable)
            return
        self._pty.unlisten()
        self._timer = self._loop.call_later(STALLED_S, self.keep_pace)

    def _all_behind(self) -> bool:
        """Whether there are clients that take output, and all of those are far behind."""
        now, end = self._loop.time(), self.history.end
        moving = [view for view in self._views if now - view.took_at < STALLED_S]
        return bool(moving) and all(end - view.offset > BEHIND_BYTES for view in moving)

    def _readable(self) -> None:
        data = self._pty.read()
        if data is None:
            self._pty.unlisten()
        elif data:
            self._take(data)
            self.keep_pace()

    def _take(self, data: bytes) -> None:
        now = self._loop.time()
        for view in self._views:
            if view.offset == self.history.end:  # it had all: its time begins now
                view.took_at = now
        self.history.append(data)
        self.active_at = time.time()
        self._wake()

    def _wake(self) -> None:
        for view in self._views:
            view.wake()

    # -- the end

    async def _follow(self) -> None:
        """Wait for the shell's end; then take what the terminal holds, and end what is left."""
        exit_ = await asyncio.shield(self.shell.child.exited)
        while data := self._pty.read():
            self._take(data)
            await asyncio.sleep(0)
        self.exit = exit_
        self._stop_timer()
        self._pty.close()
        self._wake()
        await self._end_session()

    async def _end_session(self) -> None:
        members = await self._members()
        send_signal(members, signal.SIGHUP)
        send_signal(members, signal.SIGCONT)  # one that is stopped would not see it
        await self._wait_for(members, HANG_UP_S)
        deadline = self._loop.time() + KILL_S
        while (members := await self._members()) and self._loop.time() < deadline:
            send_signal(members, signal.SIGKILL)
            await wait_for_ends(members, deadline)

    async def _wait_for(self, members: list[ProcessStat], timeout_s: float) -> None:
        """Until these and those that they start have ended."""
        deadline = self._loop.time() + timeout_s
        while members and self._loop.time() < deadline:
            await wait_for_ends(members, deadline)
            members = await self._members()

    async def _members(self) -> list[ProcessStat]:
        """Who is in the terminal's session; who has left it on purpose is not."""
        child = self.shell.child
        tree = await asyncio.to_thread(find_tree, child.pid, reaped=child.exited.done())
        return [stat for stat in tree if stat.session == child.pid]

    # -- below

    def _touch(self) -> None:
        self.active_at = time.time()
        if self.on_views is not None:
            self.on_views()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
