"""Which lines of a text match a literal.

A line ends with `\\n` alone, which never belongs to a match. All of this takes linear time.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from sandbox_api.core.searches.letters import either_case

MAX_CHARACTER_BYTES = 4  # in UTF-8
WINDOW_BYTES = 128 * 1024  # what an expression looks at in one call, which holds up everybody else


class Line(NamedTuple):
    """A line that matches, with the place of its first match.

    Attributes:
        begin: where it begins in the data.
        end: where it ends, without its newline.
        column: of the match, in characters from 1 on.
    """

    begin: int
    end: int
    column: int


class Required(NamedTuple):
    """What every match holds.

    Attributes:
        text: some bytes, not none.
        any_case: whether ASCII letters in it count in either case.
    """

    text: bytes
    any_case: bool


class Matcher(ABC):
    """What lines are held against.

    Attributes:
        required: what a quick look at many files looks for; None where that would not be quick.
        overlap: bytes of a line's piece that the next piece has to repeat, for no match to be lost
            between them, and no character to be cut.
    """

    required: Required | None = None
    overlap: int = MAX_CHARACTER_BYTES - 1

    @abstractmethod
    def may_match(self, data: bytearray, size: int) -> bool:
        """Whether the first bytes may hold a match: what is asked of every file."""

    @abstractmethod
    def lines(self, data: bytes, begin: int, end: int) -> Iterator[Line]:
        """The lines that match.

        Args:
            data: text.
            begin: where the first line begins.
            end: where the last one ends, behind its newline where it has one.
        """


class _BytesMatcher(Matcher):
    """Finds bytes and then the line around them."""

    def may_match(self, data: bytearray, size: int) -> bool:
        return self._find(self._prepare(data, size), 0, size) >= 0

    def lines(self, data: bytes, begin: int, end: int) -> Iterator[Line]:
        prepared = self._prepare(data, len(data))
        while (place := self._find(prepared, begin, end)) >= 0:
            start = data.rfind(b"\n", begin, place) + 1 or begin
            stop = data.find(b"\n", place, end)
            stop = end if stop < 0 else stop
            yield Line(start, stop, len(decode(data[start:place])) + 1)
            begin = stop + 1

    def _prepare(self, data: bytearray | bytes, size: int) -> bytearray | bytes:
        del size
        return data

    @abstractmethod
    def _find(self, data: bytearray | bytes, begin: int, end: int) -> int:
        """Where the first match begins, or -1."""


class Literal(_BytesMatcher):
    """Bytes as they are."""

    def __init__(self, text: str) -> None:
        self._text = encode(text)
        self.required = Required(self._text, any_case=False)
        self.overlap = max(self.overlap, len(self._text) - 1)

    def may_match(self, data: bytearray, size: int) -> bool:
        return data.find(self._text, 0, size) >= 0  # as above, in half the calls

    def _find(self, data: bytearray | bytes, begin: int, end: int) -> int:
        return data.find(self._text, begin, end)


class AsciiInAnyCase(Literal):
    """ASCII letters in either case."""

    def __init__(self, text: str) -> None:
        super().__init__(text.lower())
        self.required = Required(self._text, any_case=True)

    def may_match(self, data: bytearray, size: int) -> bool:
        return data[:size].lower().find(self._text) >= 0

    def _prepare(self, data: bytearray | bytes, size: int) -> bytearray | bytes:
        return (data if len(data) == size else data[:size]).lower()


class TextInAnyCase(_BytesMatcher):
    """Letters of any language in either case: each is one of a few sequences of bytes."""

    def __init__(self, text: str) -> None:
        ascii_parts = re.findall("[\0-\x7f]+", text)
        if ascii_parts:  # of ASCII letters both cases are ASCII
            self.required = Required(encode(max(ascii_parts, key=len)), any_case=True)
        letters = [[encode(form) for form in either_case(character)] for character in text]
        self._search = re.compile(b"".join(map(_one_of, letters)), re.DOTALL).search
        longest = sum(max(map(len, forms)) for forms in letters)
        self.overlap = max(self.overlap, longest - 1)

    def _find(self, data: bytearray | bytes, begin: int, end: int) -> int:
        for start in range(begin, end, WINDOW_BYTES):
            match = self._search(data, start, min(end, start + WINDOW_BYTES + self.overlap))
            if match is not None:
                return match.start()
        return -1


def _one_of(forms: list[bytes]) -> bytes:
    return b"(?:" + b"|".join(map(re.escape, forms)) + b")"


def literal_matcher(text: str, *, case_sensitive: bool) -> Matcher:
    """The matcher of a literal text without a newline."""
    if case_sensitive or text.lower() == text.upper():
        return Literal(text)
    return AsciiInAnyCase(text) if text.isascii() else TextInAnyCase(text)


def encode(text: str) -> bytes:
    """Text as bytes of a file."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Bytes of a file as text; what is no UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", "replace")
