"""How well a text fits a query, by its words (Robertson and Zaragoza 2009: BM25).

Words of code are parts of names: `parseHTTPRequest` and `parse_http_request` are three.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

K1: Final = 1.2
B: Final = 0.75
MOST_TERMS: Final = 32
_LEAST_STEM = 3
_LONG = 4  # characters

_RUN = re.compile(r"[^\W\d_]+|\d+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SUFFIXES = (
    *("ications", "ication", "ations", "ation", "ators", "ator", "ates", "ate", "ating", "ated"),
    *("ions", "ion", "ings", "ing", "ies", "ied", "ers", "er", "ed", "es", "s", "e", "y"),
)
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from get has have how i in into is it its me my "
        "of on or our that the their them there this to use used using want was we what when "
        "where which who why will with you your code file files function find show all",
    )
)


def words(text: str) -> list[str]:
    """The parts of all names and words, in lower case."""
    runs = _RUN.findall(text)
    parts = (_WORD.findall(run) if run.isascii() else [run] for run in runs)
    return [word.lower() for found in parts for word in found]


def stem(word: str) -> str:
    """What forms of one word have in common, more or less."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _LEAST_STEM:
            return word[: -len(suffix)]
    return word


class Terms:
    """What a query looks for: stems, counted as parts of words.

    Args:
        query: a question or some words; common words count only where there is nothing else.
    """

    def __init__(self, query: str) -> None:
        found = words(query)
        chosen = [word for word in found if word not in _COMMON and len(word) > 1] or found
        self.stems = list(dict.fromkeys(map(stem, chosen)))[:MOST_TERMS]
        self._long = [(one, one.encode()) for one in self.stems if len(one) >= _LONG]
        self._short = [(one, _whole_word(one)) for one in self.stems if len(one) < _LONG]
        self._ascii = all(one.isascii() for one in self.stems)

    def fold(self, text: bytes) -> bytes:
        """A text as `count` needs it: in lower case. Its lines stay its lines."""
        if self._ascii:
            return text.lower()
        return text.decode("utf-8", "replace").lower().encode()

    def count(self, folded: bytes, begin: int, end: int) -> dict[str, int]:
        """How often each stem stands in a part of a text; those that do not are left out.

        A long one counts within words too, since names are written together; a short one only as a
        word of its own. There is no splitting into words here: it would take ten times as long.
        """
        counts = {one: folded.count(raw, begin, end) for one, raw in self._long}
        for one, pattern in self._short:
            counts[one] = len(pattern.findall(folded, begin, end))
        return {one: count for one, count in counts.items() if count}


def _whole_word(text: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![a-z0-9])" + re.escape(text.encode()) + rb"(?![a-z])")


def score(
    counts: Mapping[str, float], length: float, rarity: Mapping[str, float], mean_length: float
) -> float:
    """How well one text fits.

    Args:
        counts: how often each term stands in it.
        length: of the text.
        rarity: of each term, as `rarity_of` tells it.
        mean_length: of all texts.
    """
    norm = K1 * (1 - B + B * length / max(mean_length, 1.0))
    return sum(rarity[term] * n * (K1 + 1) / (n + norm) for term, n in counts.items())


def rarity_of(holding: int, total: int) -> float:
    """How much a term tells.

    Args:
        holding: how many texts hold it.
        total: how many there are.
    """
    return math.log(1 + (total - holding + 0.5) / (holding + 0.5))
