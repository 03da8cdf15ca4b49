"""How well a text fits a query, by its words (Robertson and Zaragoza 2009: BM25).

Words of code are parts of names: `parseHTTPRequest` and `parse_http_request` are three.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

K1: Final = 1.2
B: Final = 0.75
MOST_TERMS: Final = 32
_LEAST_STEM = 3

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
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
    return [word.lower() for word in _WORD.findall(text)]


def stem(word: str) -> str:
    """What forms of one word have in common, more or less."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _LEAST_STEM:
            return word[: -len(suffix)]
    return word


def query_terms(query: str) -> list[str]:
    """The stems that a query looks for; common words only where there is nothing else."""
    found = words(query)
    chosen = [word for word in found if word not in _COMMON and len(word) > 1] or found
    return list(dict.fromkeys(stem(word) for word in chosen))[:MOST_TERMS]


def count_terms(text: str, terms: Sequence[str]) -> dict[str, int]:
    """How often each term stands in a text, as the begin of a word."""
    any_of_them = tuple(terms)
    counts: Counter[str] = Counter()
    for word in words(text):
        if word.startswith(any_of_them):
            counts.update(term for term in terms if word.startswith(term))
    return dict(counts)


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
