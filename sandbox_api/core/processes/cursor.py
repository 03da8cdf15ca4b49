"""A place in a run's output, and reading on from it in the order that the journal fixed."""

from collections.abc import Sequence
from typing import NamedTuple

from sandbox_api.core.processes.journal import Journal, Kind, Mark, Position
from sandbox_api.core.processes.output import STREAMS, Output

READ_BYTES = 256 * 1024
READ_PIECES = 512
NOTHING = Position()
"""What a reader has that comes for the first time."""


class Piece(NamedTuple):
    """Bytes of one stream, or a gap in it, or the end of the run.

    Attributes:
        kind: the stream, or END.
        position: what the reader has of each stream before it; with its own bytes added, this is
            where to resume after it.
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
        seen: the bytes of each stream that the reader had before it came; they are passed unread.
            Nothing once both are behind, so that readers at one place are alike.
    """

    position: Position = NOTHING
    number: int = 0
    end_told: bool = False
    seen: Position = NOTHING

    @classmethod
    def of(cls, output: Output, seen: Position) -> "Place":
        """Where a reader that has so many bytes of each stream goes on.

        The two may be of different times: it is then where the older one is, and what follows of
        the other one is passed until its own place comes.
        """
        if not seen.order:
            return cls()
        number = min(output.journal.find_stream(kind, seen[kind]) for kind in STREAMS)
        marks = output.journal.read(number, 1)
        # marks that are forgotten: what lies before the first that is left is a gap
        begin = Position(*map(min, marks[0].position, seen)) if marks else seen
        return _forget_passed(cls(begin, number, seen=seen))

    @property
    def reached(self) -> Position:
        """The bytes of each stream that the reader has."""
        return Position(*map(max, self.position, self.seen)) if self.seen.order else self.position

    def advance(self, kind: Kind, count: int) -> "Place":
        """The place `count` bytes of one stream later."""
        place = self._replace(position=self.position.advance(kind, count))
        return _forget_passed(place) if place.seen.order else place

    def next_mark(self) -> "Place":
        """The begin of the next segment."""
        return Place(self.position, self.number + 1, seen=self.seen)


def _forget_passed(place: Place) -> Place:
    return place._replace(seen=NOTHING) if place.reached == place.position else place


class Cursor:
    """Reads a run's output from its begin, or from where a reader was before.

    What it returns, concatenated, depends only on the output and the begin: never on when it was
    read, or in how many calls (but for what was cut for space meanwhile, which is a counted gap).

    Args:
        output: the run's output.
        seen: the bytes of each stream that the reader has already.
    """

    def __init__(self, output: Output, seen: Position = NOTHING) -> None:
        self._output = output
        self.place = Place.of(output, seen)

    def read(self, most: int = READ_BYTES, limit: Position | None = None) -> list[Piece]:
        """What comes next; nothing when all is read, or when `place` moved over what was seen.

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
            if piece.kind is not Kind.END and not (piece.data or piece.lost):
                continue  # seen
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
            self.place = Place(self.place.position, number, seen=self.place.seen)
        while mark := window.mark(self.place.number):
            if mark.kind is Kind.END and not self.place.end_told:
                self.place = self.place._replace(end_told=True)
                return Piece(Kind.END, self.place.reached, time_ns=mark.time_ns)
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
        log, offset = self._output.logs[mark.kind], self.place.position[mark.kind]
        if offset < max(log.start, self.place.seen[mark.kind]):
            return self._pass(mark.kind, length, log.start)
        data = window.data(mark.kind, offset, min(length, most))
        if not data:  # somebody has removed the file
            return self._pass(mark.kind, length, offset + length)
        begin = self.place.reached
        self.place = self.place.advance(mark.kind, len(data))
        return Piece(mark.kind, begin, data, time_ns=mark.time_ns)

    def _skip_forgotten(self, mark: Mark | None, window: "_Window") -> Piece | None:
        """The marks here are gone with their bytes: one gap a stream, then on at the next mark.

        There is none where somebody has removed the journal's file.
        """
        until = mark.position if mark else window.stop
        for kind in STREAMS:
            lost = until[kind] - self.place.position[kind]
            if lost > 0:
                return self._pass(kind, lost, until[kind])
        return None

    def _pass(self, kind: Kind, length: int, gone: int) -> Piece:
        """Go over bytes that are not read: seen, which is no piece, or gone, which is a gap.

        Args:
            kind: of which stream.
            length: how many, at most.
            gone: the offset before which all are gone.
        """
        offset, begin = self.place.position[kind], self.place.reached
        unseen = max(offset, self.place.seen[kind])
        count = min(length, (unseen if unseen > offset else gone) - offset)
        self.place = self.place.advance(kind, count)
        return Piece(kind, begin, lost=0 if unseen > offset else count)


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
