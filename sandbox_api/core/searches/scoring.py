"""How well a path fits a query of which it holds all characters in order.

The scale and the rules are those of fzf's second algorithm, so that whoever knows fzf finds nearly
the same order here: each character counts, runs count more, and so do beginnings of words, of names
and of humps; gaps cost. The best alignment of all is taken. Two things are ours: the beginning of
the path counts as that of any other name, and what stands in the base name counts more.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from sandbox_api.core.searches.letters import either_case
from sandbox_api.core.searches.matching import Required, encode

MATCH: Final = 16
GAP_START: Final = -3
GAP_EXTENSION: Final = -1
BOUNDARY: Final = MATCH // 2
BEGINNING: Final = BOUNDARY + 1  # of the path, and behind a delimiter
HUMP: Final = BOUNDARY + GAP_EXTENSION
CONSECUTIVE: Final = -(GAP_START + GAP_EXTENSION)
FIRST_FACTOR: Final = 2
IN_NAME: Final = 4  # where the base name alone holds the query

_SPACE, _SIGN, _DELIMITER, _LOWER, _UPPER, _LETTER, _DIGIT = range(7)
_DELIMITERS = "/,:;|"


_Cell = tuple[int, int, int, int]
"""The best score of all alignments in which one character of the query stands at a place.

A plain tuple, for each path has dozens: the place; the score; the score less its place that the gap
behind it would have (a gap costs the same for each place but the first); and how many characters
with this one stand side by side, 0 where a gap gives more than to take this place.
"""


class Scorer:
    """Scores paths for one query.

    Args:
        query: not empty. Its letters are taken in either case where it has no capital.
        plain: score as the reference does, of which clients know the numbers: case counts, and
            only matches, runs and gaps do (spec/filesystem.md 10).

    Attributes:
        required: the query, where a path `holds` it if its bytes stand in order in the path's.
        holds: says of a path, or of its part from an index on, whether it holds the query's
            characters in order: by something true.
    """

    holds: Callable[..., object]

    def __init__(self, query: str, *, plain: bool = False) -> None:
        any_case = not plain and query == query.lower()
        self._plain = plain
        is_bytes = query.isascii() and not plain  # no part of another character is ASCII
        self.required = Required(encode(query), any_case) if is_bytes else None
        self._forms = [either_case(c) if any_case else c for c in query]
        classes = [re.escape(forms) for forms in self._forms]
        # possessive, so that it takes linear time: the first place is as good as any
        matches = re.compile("".join(f"[^{c}]*+[{c}]" for c in classes)).match
        self.holds = (lambda path, cut=0: matches(simplified(path), cut)) if plain else matches
        self._find = {forms: re.compile(f"[{re.escape(forms)}]").finditer for forms in self._forms}

    def score(self, path: str) -> int:
        """The score of a path that `holds` the query."""
        text = simplified(path) if self._plain else path
        places = {
            forms: [match.start() for match in find(text)] for forms, find in self._find.items()
        }
        found = [place for some in places.values() for place in some]
        bonuses = {place: 0 if self._plain else _bonus(text, place) for place in found}
        row = _first_row(places[self._forms[0]], bonuses)
        for forms in self._forms[1:]:
            row = _next_row(row, places[forms], bonuses)
        score = max(cell[1] for cell in row)
        in_name = not self._plain and self.holds(path[path.rfind("/") + 1 :])
        return score + IN_NAME if in_name else score


def simplified(path: str) -> str:
    """A path as plain scores see it: what is not ASCII is in lower case and without accents."""
    return path if path.isascii() else "".join(map(_simple, path))


@lru_cache(1024)
def _simple(character: str) -> str:
    if character.isascii():
        return character
    lower = character.lower()
    base = unicodedata.normalize("NFD", lower)[0]
    if base.isascii():
        return base
    return lower if len(lower) == 1 else character


def _first_row(places: list[int], bonuses: dict[int, int]) -> list[_Cell]:
    row: list[_Cell] = []
    level = 0
    for place in places:
        score = MATCH + bonuses[place] * FIRST_FACTOR
        row.append(_cell(place, score, level - place, 1))
        level = row[-1][2]
    return row


def _next_row(above: list[_Cell], places: list[int], bonuses: dict[int, int]) -> list[_Cell]:
    row: list[_Cell] = []
    index, level, last = 0, 0, len(above) - 1
    for place in places:
        if place <= above[0][0]:
            continue
        while index < last and above[index + 1][0] < place:
            index += 1
        before, score, before_level, run = above[index]
        bonus = bonuses[place]
        if before == place - 1:
            bonus, run = _continued(bonus, bonuses[before - run + 1], run) if run else (bonus, 1)
        else:
            score, run = max(0, before_level - place + 1), 1
        score += MATCH
        gap = level - place
        if score + bonus < gap:
            bonus, run = bonuses[place], 0
        row.append(_cell(place, score + bonus, gap, run))
        level = row[-1][2]
    return row


def _continued(bonus: int, first: int, run: int) -> tuple[int, int]:
    """The bonus of a place that continues a run, and how long the run is with it."""
    if bonus >= BOUNDARY and bonus > first:
        return bonus, 1  # a new word begins
    return max(bonus, CONSECUTIVE, first), run + 1


def _cell(place: int, score: int, gap: int, run: int) -> _Cell:
    """The cell of a place: it is taken, or the gap that reaches it gives more."""
    if score < gap:
        return place, gap, gap + place + GAP_EXTENSION + 1, run
    return place, score, score + place + GAP_START + 1, run


def _bonus(path: str, place: int) -> int:
    return _bonus_of(path[place - 1] if place else " ", path[place])


@lru_cache(4096)
def _bonus_of(before_character: str, character: str) -> int:
    """What it is worth that a character stands behind another."""
    before, kind = _kind(before_character), _kind(character)
    if kind > _SIGN and before <= _DELIMITER:
        return {_SPACE: BEGINNING, _SIGN: BOUNDARY, _DELIMITER: BEGINNING}[before]
    if (before == _LOWER and kind == _UPPER) or (before != _DIGIT and kind == _DIGIT):
        return HUMP
    return {_SPACE: BEGINNING, _SIGN: BOUNDARY}.get(kind, 0)


def _kind(character: str) -> int:
    if character.islower():
        return _LOWER
    if character.isupper():
        return _UPPER
    if character.isdigit():
        return _DIGIT
    if character.isalpha():
        return _LETTER
    if character in _DELIMITERS:
        return _DELIMITER
    return _SPACE if character.isspace() else _SIGN
