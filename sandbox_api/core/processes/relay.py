"""Lines of output, passed on to the daemon's own log (spec/process.md 9).

A reader of the lowest priority. It looks some time after there is more, so a burst is one look; it
holds no bytes back from being cut; and what is over its bounds it leaves out, without reading it,
and counts.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sandbox_api.core.processes.cursor import Cursor
from sandbox_api.core.processes.framing import utf8_edge
from sandbox_api.core.processes.journal import Kind, Position
from sandbox_api.core.processes.output import STREAMS
from sandbox_api.core.processes.process import Process

LINES_PER_S = 200
LINES_PER_S_OF_ALL = 1000
MAX_LINE_BYTES = 8 << 10
MAX_BEHIND_BYTES = 1 << 20
READ_BYTES = 64 << 10
LINGER_S = 0.05
WINDOW_S = 1.0


class Told(NamedTuple):
    """A line of a process.

    Attributes:
        kind: its stream.
        text: without its newline.
        skipped: instead of a line: how many bytes were left out since the last one.
    """

    kind: Kind = Kind.STDOUT
    text: str = ""
    skipped: int = 0


Tell = Callable[[Process, Told], None]


class Allowance:
    """How many lines may be told in the current second.

    Args:
        lines: per second.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self.left = lines
        self.until = 0.0

    def renew(self, now: float) -> bool:
        """Begin a new second where the last one is over.

        Returns:
            Whether it was.
        """
        if now < self.until:
            return False
        self.left, self.until = self._lines, now + WINDOW_S
        return True


class Relay:
    """Passes on the lines of all processes.

    Args:
        tell: is given each line, and each count of what was left out.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._allowance = Allowance(LINES_PER_S_OF_ALL)

    def attach(self, process: Process) -> None:
        """Pass on what a process writes from now on; it costs nothing until it does."""
        output = process.output
        if output.end is None or output.pipe_links():
            output.on_more = partial(self._begin, process, output.position)

    def _begin(self, process: Process, seen: Position) -> None:
        output = process.output
        if output.position != seen:
            output.on_more = _LineReader(process, seen, self._tell, self._allowance).more
            output.on_more()
        elif output.end is not None:
            output.on_more = None


class _LineReader:
    """Reads what one process writes, some time later.

    Args:
        process: which.
        seen: where to begin.
        tell: is given the lines.
        of_all: how many all processes may tell.
    """

    def __init__(self, process: Process, seen: Position, tell: Tell, of_all: Allowance) -> None:
        self._loop = asyncio.get_running_loop()
        self._process, self._output = process, process.output
        self._tell, self._of_all = tell, of_all
        self._own = Allowance(LINES_PER_S)
        self._own.renew(self._loop.time())
        self._seen = seen
        self._cursor: Cursor | None = None
        self._unfinished = [b"", b""]
        self._inside = [False, False]
        self._skipped = 0
        self._waiting = False

    def more(self) -> None:
        """There is more."""
        self._look_at(self._loop.time() + LINGER_S)

    def _look_at(self, when: float) -> None:
        if not self._waiting:
            self._waiting = True
            self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._waiting = False
        if self._output.on_more is None:  # it was forgotten meanwhile
            return
        now, waited = self._loop.time(), not self._may_tell
        self._of_all.renew(now)
        self._own.renew(now)
        if waited and self._may_tell:
            self._jump()
        if self._may_tell:
            self._read()
        if self._behind > MAX_BEHIND_BYTES:  # long lines, and more of them than are told
            self._own.left = 0
        if not self._may_tell:
            self._look_at(max(self._own.until, self._of_all.until))
        elif self._behind:
            self._look_at(now + LINGER_S)
        else:
            self._tell_skipped()
            if self._output.end is not None and not self._output.pipe_links():
                self._output.on_more = None

    @property
    def _may_tell(self) -> bool:
        return self._own.left > 0 and self._of_all.left > 0

    @property
    def _behind(self) -> int:
        return self._output.position.order - self._seen.order

    def _jump(self) -> None:
        """Leave out what is there."""
        self._skipped += self._behind + sum(map(len, self._unfinished))
        self._seen, self._cursor, self._unfinished = self._output.position, None, [b"", b""]
        with self._output.reading():
            self._inside = [self._inside_line(kind) for kind in STREAMS]
        self._tell_skipped()

    def _inside_line(self, kind: Kind) -> bool:
        """Whether what comes next of a stream is the rest of a line that was left out."""
        offset = self._seen[kind]
        return offset > 0 and self._output.logs[kind].read(offset - 1, 1) != b"\n"

    def _read(self) -> None:
        with self._output.reading():
            if self._cursor is None:
                self._cursor = Cursor(self._output, self._seen)
            for piece in self._cursor.read(READ_BYTES):
                if piece.kind is Kind.END:
                    for kind in STREAMS:
                        self._tell_line(kind, self._unfinished[kind])
                    self._unfinished = [b"", b""]
                else:
                    self._skipped += piece.lost
                    self._take(piece.kind, piece.data)
            self._seen = self._cursor.place.reached

    def _take(self, kind: Kind, data: bytes) -> None:
        if self._inside[kind]:
            rest, newline, data = data.partition(b"\n")
            self._skipped += len(rest) + len(newline)
            self._inside[kind] = not newline
        *lines, left = (self._unfinished[kind] + data).split(b"\n")
        for line in lines:
            self._tell_line(kind, line)
        if len(left) > MAX_LINE_BYTES:
            self._tell_line(kind, left)
            left, self._inside[kind] = b"", True
        self._unfinished[kind] = left

    def _tell_line(self, kind: Kind, line: bytes) -> None:
        if not line:
            return
        if not self._may_tell:
            self._skipped += len(line) + 1
            return
        if len(line) > MAX_LINE_BYTES:
            edge = utf8_edge(line, MAX_LINE_BYTES)
            self._skipped += len(line) - edge
            line = line[:edge]
        self._allow(Told(kind, line.decode("utf-8", "replace")))

    def _tell_skipped(self) -> None:
        if self._skipped:
            self._allow(Told(skipped=self._skipped))
            self._skipped = 0

    def _allow(self, told: Told) -> None:
        self._own.left -= 1
        self._of_all.left -= 1
        self._tell(self._process, told)
