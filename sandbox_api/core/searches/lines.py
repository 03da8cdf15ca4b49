"""The lines of one file that match, with their numbers, columns and context."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sandbox_api.core.searches.matching import Line, Matcher, decode

MAX_CONTEXT_BYTES: Final = 64 * 1024  # how far from a match its context may lie
MAX_TEXT: Final = 2000  # characters of a line in the answer
BEFORE_MATCH: Final = 500  # characters of a cut line that stand before its match
CUT: Final = "[... cut ...]"

_CONTINUATION = 0x80  # the first two bits of a byte that is not a character's first


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line that matches.

    Attributes:
        number: from 1 on.
        column: of its first match, in characters from 1 on.
        text: without its newline; of a long line the part around the match.
        context: the line with those around it; None where it was not asked for.
    """

    number: int
    column: int
    text: str
    context: str | None


class LineSearch:
    """The search of one file, block by block.

    Args:
        matcher: what lines are held against.
        context_lines: how many before and after a match are its context.
        take: is given what was found, in order.
    """

    def __init__(
        self, matcher: Matcher, context_lines: int, take: Callable[[FoundLine], None]
    ) -> None:
        self._matcher = matcher
        self._context_lines = context_lines
        self._take = take
        self._number = 1
        self._characters = 0  # of the current line that were searched in pieces
        self._told = False  # whether that line was told

    def block(self, data: bytes, begin: int, end: int) -> int:
        """Search lines.

        Args:
            data: with what stands before and behind them, as far as their context reaches.
            begin: where the first line begins, or its last piece.
            end: where the last one ends.

        Returns:
            From where on the next call needs the data.
        """
        counted = begin
        for line in self._matcher.lines(data, begin, end):
            self._number += data.count(b"\n", counted, line.begin)
            counted = line.begin
            if line.begin > begin:
                self._tell(data, line, line.column)
            elif not self._told:
                self._tell(data, line, self._characters + line.column)
        self._number += data.count(b"\n", counted, end)
        self._characters, self._told = 0, False
        return lines_before(data, end, self._context_lines)

    def piece(self, data: bytes, begin: int) -> int:
        """Search a part of a line that is too long, from `begin` to the end of the data; as above.

        What the matcher wants to see again, and no character in part, is left for the next piece.
        """
        if not self._told:
            line = next(self._matcher.lines(data, begin, len(data)), None)
            if line is not None:
                self._told = True
                self._tell(data, line, self._characters + line.column)
        end = len(data) - self._matcher.overlap
        while end > begin and data[end] & 0xC0 == _CONTINUATION:
            end -= 1
        piece = data[begin:end]
        self._characters += len(piece if piece.isascii() else decode(piece))
        return end

    def _tell(self, data: bytes, line: Line, column: int) -> None:
        text = cut_text(decode(data[line.begin : line.end]), line.column)
        context = self._context(data, line, text) if self._context_lines else None
        self._take(FoundLine(self._number, column, text, context))

    def _context(self, data: bytes, line: Line, text: str) -> str:
        count = self._context_lines
        before = data[lines_before(data, line.begin, count) : line.begin]
        behind = data[line.end + 1 : line.end + 1 + MAX_CONTEXT_BYTES]
        lines = [*_texts(before, count), text, *_texts(behind, count)]
        return "\n".join(lines)


def _texts(lines: bytes, count: int) -> list[str]:
    """The first lines as texts; behind the last newline is no line."""
    parts = lines.removesuffix(b"\n").split(b"\n", count)[:count] if lines else []
    return [cut_text(decode(line)) for line in parts]


def lines_before(data: bytes, end: int, count: int) -> int:
    """Where the last `count` lines before `end` begin, as far as they are whole and near."""
    lowest = max(0, end - MAX_CONTEXT_BYTES)
    begin = end
    for _ in range(count):
        newline = data.rfind(b"\n", lowest, max(0, begin - 1))
        if newline < 0:
            return 0 if lowest == 0 else begin
        begin = newline + 1
    return begin


def cut_text(text: str, column: int = 1) -> str:
    """A line's text; of a long one the part around a column, with a mark where it is cut."""
    if len(text) <= MAX_TEXT:
        return text
    begin = max(0, min(column - 1 - BEFORE_MATCH, len(text) - MAX_TEXT))
    end = begin + MAX_TEXT
    return f"{CUT if begin else ''}{text[begin:end]}{CUT if end < len(text) else ''}"
