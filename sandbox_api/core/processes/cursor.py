"""A place in a run's output, and reading on from it in the order that the journal fixed."""

from collections.abc import Sequence
from typing import NamedTuple

from sandbox_api.core.processes.journal import Journal, Kind, Mark, Position
from sandbox_api.core.processes.output import STREAMS, Output

READ_BYTES = 256 * 1024
READ_PIECES = 512


class Piece(NamedTuple):
    """Bytes of one stream, or a gap in it, or the end of the run.

    Attributes:
        kind: the stream, or END.
        position: where it begins.
        data: the bytes; empty for a gap and for the end.
        lost: bytes that were cut for space here.
        time_ns: when its segment began, ns since the epoch; 0 for a gap.
    """

    kind: Kind
    position: Position
    data: bytes = b""
    lost: int = 0
    time_ns: int = 0


class Place(NamedTuple):
    """Where a cursor stands.

    Attributes:
        position: the bytes of each stream that it has passed.
        number: of the mark whose segment the position is in.
        end_told: whether that mark, if it is an end, was returned already.
    """

    position: Position = Position()
    number: int = 0
    end_told: bool = False

    def next_mark(self) -> "Place":
        """The begin of the next segment."""
        return Place(self.position, self.number + 1)


class Cursor:
    """Reads a run's output from its begin.

    What it returns, concatenated, depends only on the output: never on when it was read, or in
    how many calls (but for what was cut for space meanwhile, which is a counted gap).

    Args:
        output: the run's output.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self.place = Place()

    def read(self, most: int = READ_BYTES, limit: Position | None = None) -> list[Piece]:
        """What comes next; nothing when all is read.

        Args:
            most: bytes at which to stop; many short segments end the call before.
            limit: a place at which to stop, or None for all that is there now.
        """
        if not self._output.position.order:
            return []
        window = _Window(self._output, limit or self._output.position, most)
        pieces: list[Piece] = []
        for _ in range(READ_PIECES):
            if most <= 0 or (piece := self._next(window, most)) is None:
                break
            if pieces and _continues(pieces[-1], piece):
                last = pieces.pop()
                piece = last._replace(lost=last.lost + piece.lost)
            pieces.append(piece)
            most -= len(piece.data)
        return pieces

    def _next(self, window: "_Window", most: int) -> Piece | None:
        number = max(self.place.number, window.first_number)
        mark = window.mark(number)
        if mark is None or mark.position.order > self.place.position.order:
            return self._skip_forgotten(mark, window)
        if number > self.place.number:
            self.place = Place(self.place.position, number)
        while mark := window.mark(self.place.number):
            if mark.kind is Kind.END and not self.place.end_told:
                self.place = self.place._replace(end_told=True)
                return Piece(Kind.END, self.place.position, time_ns=mark.time_ns)
            following = window.mark(self.place.number + 1)
            end = following.position.order if following else window.stop.order
            length = min(end, window.stop.order) - self.place.position.order
            if length > 0:
                return self._take(mark, length, most, window)
            if following is None or end > window.stop.order:
                break
            self.place = self.place.next_mark()
        return None

    def _take(self, mark: Mark, length: int, most: int, window: "_Window") -> Piece:
        begin, log = self.place.position, self._output.logs[mark.kind]
        offset = begin[mark.kind]
        if offset < log.start:
            return self._gap(mark.kind, min(length, log.start - offset))
        data = window.data(mark.kind, offset, min(length, most))
        if not data:  # somebody has removed the file
            return self._gap(mark.kind, length)
        self._move(begin.advance(mark.kind, len(data)))
        return Piece(mark.kind, begin, data, time_ns=mark.time_ns)

    def _skip_forgotten(self, mark: Mark | None, window: "_Window") -> Piece | None:
        """The marks here are gone with their bytes: one gap a stream, then on at the next mark.

        There is none where somebody has removed the journal's file.
        """
        until = mark.position if mark else window.stop
        for kind in STREAMS:
            lost = until[kind] - self.place.position[kind]
            if lost > 0:
                return self._gap(kind, lost)
        return None

    def _gap(self, kind: Kind, lost: int) -> Piece:
        begin = self.place.position
        self._move(begin.advance(kind, lost))
        return Piece(kind, begin, lost=lost)

    def _move(self, position: Position) -> None:
        self.place = self.place._replace(position=position)


def _continues(last: Piece, piece: Piece) -> bool:
    """Whether two pieces are one gap: segments are short, a cut is long."""
    return bool(last.lost and piece.lost and last.kind is piece.kind)


class _Window:
    """What one call of `Cursor.read` needs of the files, in few system calls."""

    def __init__(self, output: Output, stop: Position, most: int) -> None:
        self.stop = stop
        self._output = output
        self._most = most
        self._journal: Journal = output.journal
        self._marks: Sequence[Mark] = ()
        self._begin = 0
        self._bytes: dict[Kind, tuple[int, bytes]] = {}

    @property
    def first_number(self) -> int:
        """The oldest mark that is still there."""
        return self._journal.first

    def mark(self, number: int) -> Mark | None:
        """A mark by its number; None past the newest."""
        index = number - self._begin
        if not 0 <= index < len(self._marks):
            self._marks, self._begin, index = self._journal.read(number), number, 0
        return self._marks[index] if self._marks else None

    def data(self, kind: Kind, offset: int, length: int) -> bytes:
        """Bytes of one stream; reads ahead, since segments may be as short as a line."""
        begin, held = self._bytes.get(kind, (0, b""))
        if not begin <= offset <= offset + length <= begin + len(held):
            ahead = min(self._most, self.stop[kind] - offset)
            begin, held = offset, self._output.logs[kind].read(offset, max(length, ahead))
            self._bytes[kind] = begin, held
        return held[offset - begin : offset - begin + length]
