"""One run's output: the only reader of its pipes, and those who wait for more of it.

Bytes go from pipe to log file by splice(2), never through Python and never waiting for a follower;
the file is the buffer. The order journal says what came when. Followers are woken in process and
read at their own pace (design.md 4).
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from sandbox_api.core.processes.budget import Budget
from sandbox_api.core.processes.holder import Holder
from sandbox_api.core.processes.journal import Journal, Kind, Position
from sandbox_api.core.processes.logfile import LogFile, has_ended, pending_bytes
from sandbox_api.core.processes.reading import Reading
from sandbox_api.core.processes.storage import PipeEnds, Storage

log = logging.getLogger(__name__)

MOVE_BYTES = 1 << 20
RETRY_S = 1.0
MEMORY_MARKS = 1 << 15
STREAMS = (Kind.STDOUT, Kind.STDERR)
_LOG_NAMES = ("stdout.log", "stderr.log")
_PIPE_NAMES = ("stdout.pipe", "stderr.pipe")


class Output:
    """Pipes, logs and order of one run.

    Args:
        storage: where they are kept.
        budget: bounds all output together; None where nothing does.
        holder: keeps what the pipes hold when the daemon dies; None where nobody does.
        restored: whether they are there already, from a daemon before this one.
        end: where the output of a restored run ended; None for one that still runs.

    Raises:
        OSError: a pipe could not be made.
    """

    __slots__ = (
        "_budget", "_counted", "_holder", "_journal", "_loop", "_pipes", "_readings", "_refused",
        "_retries", "_waiting", "end", "logs", "on_more", "shared", "storage",
    )  # fmt: skip

    def __init__(
        self,
        storage: Storage,
        budget: Budget | None = None,
        holder: Holder | None = None,
        *,
        restored: bool = False,
        end: Position | None = None,
    ) -> None:
        self.storage = storage
        self._budget = budget
        self._holder = holder if storage.run else None
        self._counted = 0
        self._loop = asyncio.get_running_loop()
        self._pipes: list[PipeEnds | None] = []
        self._journal: Journal | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._retries: dict[Kind, asyncio.TimerHandle] = {}
        self._refused = False
        self._readings: list[Reading] = []
        self.end = end
        """Where the output ended with the run; None while it runs."""
        self.shared: tuple[object, object] | None = None
        """What one follower framed last, for others that stand at the same place."""
        self.on_more: Callable[[], None] | None = None  # called at the end too; returns at once
        self.logs = [
            LogFile(partial(storage.open_file, name), storage.max_bytes) for name in _LOG_NAMES
        ]
        if restored:
            for log_file, name in zip(self.logs, _LOG_NAMES, strict=True):
                log_file.resume(*storage.extent(name))
        try:
            self._open_pipes(restored)
        except OSError:
            if not restored:
                self.discard()
            raise
        if budget is not None:
            self._counted = self.kept_bytes
            budget.add(self)

    def _open_pipes(self, restored: bool) -> None:
        for kind, name in zip(STREAMS, _PIPE_NAMES, strict=True):
            ended = self.end is not None
            pipe = self.storage.reopen_pipe(name) if ended else self.storage.open_pipe(name)
            self._pipes.append(pipe)
            if restored and pipe is not None:
                self._take_rest(kind, _LOG_NAMES[kind])
        for kind in STREAMS:
            self._listen(kind)
        if self._holder is not None and any(self._pipes):
            self._holder.hold(self.run, self._read_ends)

    def _take_rest(self, kind: Kind, name: str) -> None:
        """Take what a holder has saved of a pipe while no daemon was there."""
        for offset, data in self.storage.rests(name):
            new = data[max(self.logs[kind].size - offset, 0) :]  # a daemon may have died over this
            if new:
                self.journal.hold(self.position, kind, time.time_ns())
                self.logs[kind].append(new)
        self.storage.forget_rests(name)

    def _read_ends(self) -> dict[Kind, int]:
        """The pipes that are still open."""
        pipes = zip(STREAMS, self._pipes, strict=True)
        return {kind: pipe.read_fd for kind, pipe in pipes if pipe is not None}

    @property
    def kept_bytes(self) -> int:
        """What is kept of both streams."""
        return sum(log_file.size - log_file.start for log_file in self.logs)

    @property
    def run(self) -> str:
        """The name of the run's directory; empty where it is kept in memory."""
        return self.storage.run

    @property
    def write_fds(self) -> tuple[int, int]:
        """The child's stdout and stderr."""
        stdout, stderr = self._pipes
        if stdout is None or stderr is None:
            raise ValueError("the run has ended")
        return stdout.write_fd, stderr.write_fd

    def pipe_links(self) -> Collection[str]:
        """The pipes that somebody may still write to, as the links in /proc/[pid]/fd name them."""
        return {os.readlink(f"/proc/self/fd/{pipe.read_fd}") for pipe in self._pipes if pipe}

    @property
    def position(self) -> Position:
        """Where the output ends now."""
        return Position(self.logs[Kind.STDOUT].size, self.logs[Kind.STDERR].size)

    @property
    def journal(self) -> Journal:
        """The order of the two streams."""
        if self._journal is None:
            self._journal = Journal.open(self.storage.open_file("order"))
        return self._journal

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """While somebody reads; afterwards the files of an ended run are closed again."""
        reading = Reading()
        self._readings.append(reading)
        try:
            yield reading
        finally:
            self._readings.remove(reading)
            if not self._readings:
                self.shared = None
            self._release()

    def moved(self, reading: Reading, position: Position) -> None:
        """A follower has come to a place."""
        reading.position = position
        reading.behind_since = None if position == self.position else self._loop.time()

    def cut_to(self, keep_bytes: int, *, spare_followers: bool) -> None:
        """Release the head, so that about `keep_bytes` of both streams remain.

        Args:
            keep_bytes: how much stays.
            spare_followers: keep as well what a follower has not read, if it moved in the last
                10 s.
        """
        if self.kept_bytes <= keep_bytes:
            return
        until = self._place(self.position.order - keep_bytes)
        if spare_followers:
            now = self._loop.time()
            for reading in self._readings:
                until = reading.spare(until, now)
        with suppress(OSError):  # no holes on this file system, or no journal: it stays
            for kind in STREAMS:
                self.logs[kind].cut(until[kind])
            self.journal.forget(until.order)
        self._count()
        self._release()

    def note(self, text: bytes) -> None:
        """Add a line of ours to stdout, where the program's output stands now; none on a full
        disk."""
        try:
            self.journal.append(self.position, Kind.STDOUT, time.time_ns())
        except OSError:
            return
        self.logs[Kind.STDOUT].append(text)
        self._count()
        self._wake()

    def finish(self) -> None:
        """The run has ended: take what its pipes hold at this moment, and say so to followers.

        Children that it left behind may write on; that is still read and logged, until the last
        writer closes.
        """
        for kind in STREAMS:
            self._drain(kind)
        self.end = self.position
        if self.end.order:
            with suppress(OSError):
                self.journal.hold(self.end, Kind.END, time.time_ns())
        for pipe in self._pipes:
            if pipe is not None:
                _close(pipe.write_fd)
        self._pipes = [pipe and PipeEnds(pipe.read_fd, -1) for pipe in self._pipes]
        self._wake()
        for kind in STREAMS:
            self._readable(kind)  # most runs leave nobody behind: close at once

    async def changed(self, deadline: float) -> bool:
        """Wait until there is more output, or the run ends.

        Args:
            deadline: loop time at which to give up.

        Returns:
            False when the deadline came first.
        """
        future = self._loop.create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout_at(deadline):
                await future
        except TimeoutError:
            return False
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
        return True

    def close(self) -> None:
        """Let all descriptors go; what is on disk stays."""
        self.on_more = None
        for kind in range(len(self._pipes)):
            self._close_pipe(Kind(kind))
        for retry in self._retries.values():
            retry.cancel()
        for log in self.logs:
            log.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def discard(self) -> None:
        """Let all descriptors go and forget what was kept."""
        if self._budget is not None:
            self._budget.remove(self)
        if self._holder is not None and any(self._pipes):
            self._holder.release(self.run)
        self.close()
        self.storage.remove()

    def _listen(self, kind: Kind) -> None:
        self._retries.pop(kind, None)
        pipe = self._pipes[kind]
        if pipe is not None:
            self._loop.add_reader(pipe.read_fd, self._readable, kind)

    def _readable(self, kind: Kind) -> None:
        pipe = self._pipes[kind]
        if pipe is None:
            return
        try:
            moved = self._move(kind, pipe.read_fd, MOVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._retry_later(kind, pipe.read_fd, exc)
            return
        if moved == 0:
            self._close_pipe(kind)
            self.storage.close_pipe(_PIPE_NAMES[kind])
            if self._holder is not None and not any(self._pipes):
                self._holder.release(self.run)
        else:
            self._wake()

    def _move(self, kind: Kind, read_fd: int, most: int) -> int:
        """Move bytes and fix their place in the order; the mark goes first, so that no byte is
        without one.

        Returns:
            How many; 0 when the last writer has closed the pipe.

        Raises:
            BlockingIOError: the pipe is empty.
            OSError: the disk took nothing.
        """
        self.logs[kind].flush()
        if self._journal is not None:
            self._journal.flush()
        if not pending_bytes(read_fd):
            if has_ended(read_fd):
                return 0
            raise BlockingIOError
        self.journal.append(self.position, kind, time.time_ns())
        moved = self.logs[kind].take(read_fd, most)
        if self.storage.max_bytes is not None:
            self.journal.keep(MEMORY_MARKS)
        self._count()
        return moved

    def _retry_later(self, kind: Kind, read_fd: int, reason: OSError) -> None:
        """The disk is full: the pipe holds the bytes and the program waits; none is lost."""
        if not self._refused:
            self._refused = True
            log.warning("output cannot be stored, its program waits: %s", reason)
        if self._budget is not None:
            self._budget.relieve()
        self._loop.remove_reader(read_fd)
        self._retries[kind] = self._loop.call_later(RETRY_S, self._listen, kind)

    def _drain(self, kind: Kind) -> None:
        pipe = self._pipes[kind]
        if pipe is None:
            return
        left = pending_bytes(pipe.read_fd)
        try:
            while left > 0 and (moved := self._move(kind, pipe.read_fd, left)):
                left -= moved
        except BlockingIOError:
            pass
        except OSError:
            self._hold(kind, pipe.read_fd, left)

    def _hold(self, kind: Kind, read_fd: int, most: int) -> None:
        """The disk is full: what the pipe holds goes to memory, so that the end has it."""
        with suppress(OSError):  # without a journal the bytes stay in the pipe and come late
            self.journal.hold(self.position, kind, time.time_ns())
            self.logs[kind].hold(read_fd, most)
            self._count()

    def _close_pipe(self, kind: Kind) -> None:
        pipe, self._pipes[kind] = self._pipes[kind], None
        if pipe is not None:
            self._loop.remove_reader(pipe.read_fd)
            _close(pipe.read_fd)
            _close(pipe.write_fd)
        self._release()

    def _release(self) -> None:
        """Hold no descriptor for a run that has ended, is written by nobody and read by nobody."""
        if self._readings or self.end is None or any(self._pipes):
            return
        for log in self.logs:
            log.release()
        if self._journal is not None and self.storage.max_bytes is None:
            if self._journal.held:
                return
            self._journal.close()
            self._journal = None

    def _place(self, order: int) -> Position:
        """The place in the output with so many bytes of both streams before it."""
        if order >= self.position.order:
            return self.position
        mark = self.journal.read(self.journal.find(order), 1)[0]
        return mark.position.advance(mark.kind, max(order - mark.position.order, 0))

    def _count(self) -> None:
        """Tell the budget how much more, or less, is kept."""
        count, self._counted = self.kept_bytes - self._counted, self.kept_bytes
        if self._budget is not None and count:
            self._budget.changed(count)

    def _wake(self) -> None:
        if self.on_more is not None:
            self.on_more()
        now = self._loop.time()
        for reading in self._readings:
            if reading.behind_since is None:
                reading.behind_since = now
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
