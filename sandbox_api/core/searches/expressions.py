"""Which lines of a text match a regular expression of Python's `re`.

That may take any time: it is only for the process of `worker.py`, which can be killed.
"""

import re
from collections.abc import Iterable, Iterator
from re import _constants as codes
from re import _parser as parser
from typing import Any

from sandbox_api.core.searches.matching import Line, Matcher, decode, encode

# in Unicode they have more forms than two, such as the Kelvin sign
_MANY_FORMS = frozenset("iksIKS")


class Expression(Matcher):
    """A regular expression, applied to one line after the other.

    Raises:
        re.error: it is none.
    """

    def __init__(self, pattern: str, *, case_sensitive: bool) -> None:
        flags = 0 if case_sensitive else re.IGNORECASE
        compiled = re.compile(pattern, flags)
        self._search = compiled.search
        self._any_case = bool(compiled.flags & re.IGNORECASE)
        text = required_text(pattern, flags)
        self._required = encode(text.lower() if self._any_case else text)

    def may_match(self, data: bytearray, size: int) -> bool:
        return size > 0 and self._may_match(data[:size])

    def lines(self, data: bytes, begin: int, end: int) -> Iterator[Line]:
        text = data[begin:end].removesuffix(b"\n")  # behind the last newline is no line
        if not self._may_match(text):
            return
        for line in text.split(b"\n"):
            # a carriage return is part of a line's text, and no obstacle to `$`
            match = self._search(decode(line.removesuffix(b"\r")))
            stop = begin + len(line)
            if match is not None:
                yield Line(begin, stop, match.start() + 1)
            begin = stop + 1

    def _may_match(self, data: bytes | bytearray) -> bool:
        return self._required in (data.lower() if self._any_case else data)


def required_text(pattern: str, flags: int) -> str:
    """The longest text found that every match holds; empty where there is none.

    With it most files need not be looked at line by line. Where letters count in either case, it is
    ASCII in which each letter has two forms.

    Raises:
        re.error: it is no regular expression.
    """
    parsed = parser.parse(pattern, flags)
    runs = "".join(_flat(parsed)).split("\n")  # which is in no line
    if parsed.state.flags & re.IGNORECASE:
        runs = [part for run in runs for part in _of_two_forms(run)]
    return max(runs, key=len, default="")


def _flat(items: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    """The characters that every match holds; a newline stands where others may be between."""
    for code, value in items:
        if code is codes.LITERAL:
            yield chr(value)
        elif code is codes.SUBPATTERN and not value[1] and not value[2]:  # no flags of its own
            yield from _flat(value[3])
        elif code in {codes.MAX_REPEAT, codes.MIN_REPEAT} and value[0] > 0:
            yield from ("\n", *_flat(value[2]), "\n")
        elif code is not codes.AT:
            yield "\n"


def _of_two_forms(run: str) -> list[str]:
    plain = (c if c.isascii() and c not in _MANY_FORMS else "\n" for c in run)
    return "".join(plain).split("\n")
