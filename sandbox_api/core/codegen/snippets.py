"""Pieces of files that fit a question, found on this machine alone.

Everything here blocks: run it on search threads, which act as the workload user.
"""

import heapq
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sandbox_api.core.codegen import bm25
from sandbox_api.core.codegen.documents import read_text, read_text_at
from sandbox_api.core.paths import printable
from sandbox_api.core.walk import SEARCH_EXCLUDES, Walk, WalkScope

LINES: Final = 40
MOST_SNIPPETS: Final = 10
MOST_CHARACTERS: Final = 4000  # of one snippet
PATH_WEIGHT: Final = 2  # a word of the path counts as much as so many in the text
MOST_PIECES: Final = 50_000

SCOPE: Final = WalkScope(exclude_directories=SEARCH_EXCLUDES, exclude_hidden=True, gitignore=True)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of a file.

    Attributes:
        path: absolute, for people and JSON.
        start: its first line, from 1 on.
        end: its last line.
        score: the higher the better; comparable within one answer only.
        content: its text, cut after some characters.
    """

    path: str
    start: int
    end: int
    score: float
    content: str


class _Piece(NamedTuple):
    path: str
    start: int
    length: int
    counts: dict[str, int]


class SnippetSearch:
    """One search; call `run` once.

    Args:
        query: a question or some words.
        stopped: asked now and then whether to end early.

    Attributes:
        truncated: whether not all files were looked at.
    """

    def __init__(self, query: str, stopped: Callable[[], bool]) -> None:
        self.truncated = False
        self._terms = bm25.Terms(query)
        self._stopped = stopped
        self._pieces: list[_Piece] = []
        self._total = 0
        self._bytes = 0

    def run(self, roots: Sequence[str], limit: int = MOST_SNIPPETS) -> list[Snippet]:
        """The pieces that fit best, the best first.

        Args:
            roots: absolute directories.
            limit: the most pieces.

        Raises:
            OSError: a root cannot be read.
        """
        for root in _outermost(roots):
            for entry in Walk(root, SCOPE, self._stopped):
                self._look_at(entry, root)
        self.truncated = self.truncated or self._stopped()
        return self._best(limit)

    def _look_at(self, entry: os.DirEntry[str], root: str) -> None:
        data = read_text(entry)
        if data is None:
            return
        self._total += data.count(b"\n") // LINES + 1
        self._bytes += len(data)
        terms, folded = self._terms, self._terms.fold(data)
        path = terms.fold(os.fsencode(posixpath.relpath(entry.path, root)))
        of_path = terms.count(path, 0, len(path))
        if not of_path and not terms.count(folded, 0, len(folded)):
            return
        for line, begin, end in _pieces(folded):
            counts = Counter(terms.count(folded, begin, end))
            if not counts and (begin or not of_path):
                continue
            counts.update({term: PATH_WEIGHT * n for term, n in of_path.items()})
            if len(self._pieces) >= MOST_PIECES:
                self.truncated = True
                return
            self._pieces.append(_Piece(entry.path, line, end - begin, dict(counts)))

    def _best(self, limit: int) -> list[Snippet]:
        holding = Counter(term for piece in self._pieces for term in piece.counts)
        rarity = {term: bm25.rarity_of(holding[term], self._total) for term in self._terms.stems}
        mean = self._bytes / max(self._total, 1)
        scored = [
            (bm25.score(piece.counts, piece.length, rarity, mean), -number)
            for number, piece in enumerate(self._pieces)
        ]
        best = heapq.nlargest(limit, scored)
        found = (_snippet(self._pieces[-number], value) for value, number in best)
        return [one for one in found if one is not None]


def _outermost(roots: Sequence[str]) -> Iterator[str]:
    """Each root but those that lie in another: nothing is looked at twice."""
    for root in dict.fromkeys(roots):
        if not any(root != other and root.startswith(f"{other.rstrip('/')}/") for other in roots):
            yield root


def _pieces(text: bytes) -> Iterator[tuple[int, int, int]]:
    """Pieces of some lines: the number of the first line, where they begin and where they end."""
    line, begin = 1, 0
    while begin < len(text) or line == 1:
        end = begin
        for _ in range(LINES):
            end = text.find(b"\n", end) + 1
            if not end:
                yield line, begin, len(text)
                return
        yield line, begin, end
        line, begin = line + LINES, end


def _snippet(piece: _Piece, score: float) -> Snippet | None:
    """The piece with its text; None where the file is gone by now, or was changed."""
    data = read_text_at(piece.path)
    if data is None:
        return None
    lines = data.decode("utf-8", "replace").split("\n")[piece.start - 1 :][:LINES]
    content = "\n".join(lines)
    cut = "\n[... cut ...]" if len(content) > MOST_CHARACTERS else ""
    last = piece.start + len(lines) - 1
    text = content[:MOST_CHARACTERS] + cut
    return Snippet(printable(piece.path), piece.start, last, round(score, 4), text)
