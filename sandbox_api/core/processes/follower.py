"""Reading a run's output as it comes: at the reader's own pace, to the end of the run."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, TypeVar, cast

from sandbox_api.core.processes.cursor import NOTHING, READ_BYTES, Cursor, Piece, Place
from sandbox_api.core.processes.journal import Position
from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.reading import Reading

S = TypeVar("S")
Frame = Callable[[Sequence[Piece], S], tuple[bytes, S]]


class Follower(Generic[S]):
    """One reader of a run's output, from its begin or from where it was before.

    A follower that came while the run lived stops exactly where the run ended; one that came later
    stops where the output ended when it came. Either way it ends.

    Args:
        output: the run's output.
        frame: makes bytes for the wire of pieces, given what its last call left over.
        left: what the first call starts with.
        flush: makes bytes of what is left over at the very end.
        seen: the bytes of each stream that the reader has already.
    """

    def __init__(
        self,
        output: Output,
        frame: Frame[S],
        left: S,
        flush: Callable[[S], bytes],
        seen: Position = NOTHING,
    ) -> None:
        self._output = output
        self._frame, self._flush, self._left = frame, flush, left
        self._cursor = Cursor(output, seen)
        self._limit = output.position if output.end is not None else None
        self._open = ExitStack()
        self._ended = False
        self._reading = Reading()

    def __enter__(self) -> "Follower[S]":
        self._reading = self._open.enter_context(self._output.reading())
        self._output.moved(self._reading, self._cursor.place.position)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def reached(self) -> Position:
        """The bytes of each stream that were read, or seen before."""
        return self._cursor.place.reached

    async def next(self, silence_s: float) -> bytes | None:
        """Wait for what comes next.

        Args:
            silence_s: how long to wait for it, in seconds.

        Returns:
            Framed bytes; empty after a silence; None at the end, for good.
        """
        deadline = asyncio.get_running_loop().time() + silence_s
        while not self._ended:
            before = self._cursor.place
            if framed := self._step():
                return framed
            if self._cursor.place != before:
                await asyncio.sleep(0)
                continue  # a part of a long line, or what was seen: there is more to read at once
            if self._stop() is not None:  # all that comes before it is there
                self._ended = True
                return self._flush(self._left) or None
            if not await self._output.changed(deadline):
                return b""
        return None

    def _step(self) -> bytes:
        """Frame what is there now. Readers at one place share the work and the bytes."""
        output, cursor = self._output, self._cursor
        key = (cursor.place, self._left, self._frame, output.position, self._stop())
        if output.shared is None or output.shared[0] != key:
            pieces = cursor.read(READ_BYTES, self._stop())
            output.shared = key, (*self._frame(pieces, self._left), cursor.place)
        framed, self._left, cursor.place = cast("tuple[bytes, S, Place]", output.shared[1])
        output.moved(self._reading, cursor.place.position)
        return framed

    def _stop(self) -> Position | None:
        """Where this follower ends, once that is known."""
        return self._limit if self._limit is not None else self._output.end
