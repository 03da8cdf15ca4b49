"""Finding paths by some of their characters (spec/filesystem.md 10).

Everything here blocks: run it on search threads.
"""

import heapq
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from sandbox_api.core.metadata import raw_path
from sandbox_api.core.paths import printable
from sandbox_api.core.patterns import compile_patterns
from sandbox_api.core.searches.listings import listings
from sandbox_api.core.searches.prefilter import in_batches, paths_in_order
from sandbox_api.core.searches.scoring import Scorer
from sandbox_api.core.searches.until import MOST_MATCHES, Outcome, Until
from sandbox_api.core.walk import Entry, Run, Walk, WalkScope, is_directory

MIN_LIKENESS: Final = 75  # of 100
MOST_LOST: Final = 2  # characters that a name may be shorter than the query it is like
_SPARE = 4096  # candidates that are kept beyond twice the limit before the worst are dropped
_RUN = 4096  # candidates that are sorted at once
_AT_ONCE = 512  # names that are compared in one call: it holds the interpreter's lock
_CHECK_EVERY = 1024  # candidates between two looks whether to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzyQuery:
    """What is looked for.

    Attributes:
        text: not empty.
        plain: whether scores are the reference's; see `Scorer`.
        approximate: whether what is only like the query follows behind what holds it.
        patterns: of which an entry must fit one; all entries where there are none.
        scope: what is left out.
        limit: the most matches; 0 is no limit.
    """

    text: str
    plain: bool = False
    approximate: bool = False
    patterns: Sequence[str] = ()
    scope: WalkScope = field(default_factory=WalkScope)
    limit: int = 0


class FuzzyMatch(NamedTuple):
    """One entry; `path` and `raw_path` are relative to the start, else as in `FileInfo`.

    Attributes:
        score: the higher the better; of an approximate match its likeness in per cent.
        approximate: whether it is only like the query.
    """

    path: str
    raw_path: bytes | None
    score: int
    type: str
    approximate: bool


class _Candidate(NamedTuple):
    """An entry that matches; the less, the better."""

    less: int
    tie: int
    path: str
    directory: bool


class _Best:
    """The best candidates so far.

    Args:
        limit: how many are wanted.
    """

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._kept: list[_Candidate] = []

    def add(self, score: int, tie: int, path: str, directory: bool) -> None:
        self._kept.append(_Candidate(-score, tie, path, directory))
        self.count += 1
        if len(self._kept) > 2 * self._limit + _SPARE:
            self._kept = self.take(self._limit)

    def take(self, limit: int) -> list[_Candidate]:
        """The best of them. Sorted in runs: one long sort would hold up the event loop."""
        runs = [sorted(self._kept[n : n + _RUN]) for n in range(0, len(self._kept), _RUN)]
        return list(islice(heapq.merge(*runs), limit))


class _Likeness:
    """Entries that do not hold the query and are like it: somebody mistyped."""

    def __init__(self, query: str, limit: int) -> None:
        self.best = _Best(limit)
        self._query = query.lower()
        self._by_path = "/" in query
        self._waiting: list[tuple[str, str, bool]] = []

    def add(self, name: str, path: str, directory: bool) -> None:
        text = path if self._by_path else name
        if len(text) >= len(self._query) - MOST_LOST:
            self._waiting.append((text.lower(), path, directory))
        if len(self._waiting) >= _AT_ONCE:
            self.compare()

    def compare(self) -> None:
        """Compare what waits."""
        from rapidfuzz import fuzz, process  # noqa: PLC0415 - rarely used, and start-up counts

        waiting, self._waiting = self._waiting, []
        for _, likeness, index in process.extract_iter(
            self._query,
            [text for text, _, _ in waiting],
            scorer=fuzz.partial_ratio,
            score_cutoff=MIN_LIKENESS,
        ):
            _, path, directory = waiting[index]
            self.best.add(round(likeness), len(path), path, directory)


def fuzzy(root: str, query: FuzzyQuery, until: Until, *, helpers: int = 0) -> Outcome[FuzzyMatch]:
    """All entries that hold the query's characters in order, the best first.

    Args:
        root: absolute; a directory, which is no entry itself.
        query: what is looked for.
        until: when to end early.
        helpers: how many threads may read directories beside the one that calls; none does for a
            plain query.

    Raises:
        OSError: the root cannot be read.
        InvalidError: the patterns are too many.
    """
    limit = query.limit or MOST_MATCHES
    best = _Best(limit)
    likeness = _Likeness(query.text, limit) if query.approximate else None
    walk = Walk(root, query.scope, until)
    # else ties go by the path
    runs = walk.runs() if query.plain else walk.unordered(partial(listings, helpers=helpers))
    with closing(runs):
        _collect(runs, until, root, query, best, likeness)
    found = [_match(one, approximate=False) for one in best.take(limit)]
    count = best.count
    if likeness is not None:
        likeness.compare()
        rest = likeness.best.take(limit - len(found))
        found += [_match(one, approximate=True) for one in rest]
        count += likeness.best.count
    truncated = until.timed_out or count > len(found)
    return Outcome(found, truncated, until.timed_out, walk.unreadable)


def _collect(
    runs: Iterable[Run[Entry]],
    until: Until,
    root: str,
    query: FuzzyQuery,
    best: _Best,
    likeness: _Likeness | None,
) -> None:
    """Sort out which entries match, and how well. The first test is that which most do not pass."""
    scorer, fits = Scorer(query.text, plain=query.plain), compile_patterns(query.patterns)
    holds, start = scorer.holds, root.rstrip("/") + "/"
    cut, holding = len(start), paths_in_order(scorer, start)
    for batch in in_batches(entries for _, entries in runs):
        for entry in batch if likeness is not None else holding(batch):
            path, directory = entry.path[cut:], is_directory(entry)
            if fits is not None and not fits.fit(entry.name, path):
                continue
            if likeness is not None and not holds(path):
                likeness.add(entry.name, path, directory)
                continue
            tie = best.count if query.plain else len(path)  # the walk's order, or the shorter one
            best.add(scorer.score(path), tie, path, directory)
            if best.count % _CHECK_EVERY == 0 and until():
                return


def _match(one: _Candidate, *, approximate: bool) -> FuzzyMatch:
    kind = "directory" if one.directory else "file"
    return FuzzyMatch(printable(one.path), raw_path(one.path), -one.less, kind, approximate)
