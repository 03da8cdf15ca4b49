"""Which files and paths are worth a look: a quick "no" for nearly all of them.

The module `_native` gives it for many at once, without the interpreter's lock, so on several cores.
It never says "no" where there is a match, and what it lets through is looked at as if it had not
been asked: without it, searches give the same and take longer. It is not there where the package
was installed without a C compiler.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import compress
from typing import Final, TypeGuard, TypeVar

from sandbox_api.core.searches.helpers import Task, Team
from sandbox_api.core.searches.matching import Required
from sandbox_api.core.searches.scoring import Scorer
from sandbox_api.core.searches.until import Until
from sandbox_api.core.walk import Entry

try:
    from sandbox_api.core.searches import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

BATCH: Final = 256  # entries that are looked at in one call
_AHEAD = 3  # batches that wait for each helper
_MOST_AHEAD = 32  # batches that are looked at before their turn

E = TypeVar("E", bound=Entry)
Entries = list[os.DirEntry[str]]


def in_batches(runs: Iterable[Sequence[E]]) -> Iterator[list[E]]:
    """The same entries, in lists of `BATCH`; the last one is shorter."""
    waiting: list[E] = []
    for run in runs:
        waiting += run
        while len(waiting) >= BATCH:
            yield waiting[:BATCH]
            del waiting[:BATCH]
    if waiting:
        yield waiting


def can_tell(required: Required | None) -> TypeGuard[Required]:
    """Whether there is a quick answer for a text at all."""
    return native is not None and required is not None and len(required.text) <= native.MAX_TEXT


def files_worth_reading(
    runs: Iterable[Entries], required: Required, binary_bytes: int, until: Until, helpers: int
) -> Generator[Entries]:
    """The files that may hold a text, in the same order.

    Args:
        runs: regular files.
        required: what they have to hold; of what `can_tell` says yes to.
        binary_bytes: how far from its beginning a NUL makes a file binary: that is left out.
        until: when to end early; then files are told of which nothing is known, and soon
            no more are read.
        helpers: how many threads to start.
    """

    def look(files: Entries) -> bytes:
        text, any_case = required
        flags = b""
        while len(flags) < len(files) and not until():
            paths = os.fsencode("\0".join([entry.path for entry in files[len(flags) :]]))
            flags += native.may_hold(paths, text, any_case, binary_bytes, until.end_s)
        return flags.ljust(len(files), b"\1")

    with closing(_looked_at(in_batches(runs), look, helpers)) as looked_at:
        for files, flags in looked_at:
            yield list(compress(files, flags))


def _looked_at(
    batches: Iterable[Entries], look: Callable[[Entries], bytes], helpers: int
) -> Generator[tuple[Entries, bytes]]:
    """Batches with what a look at them gives, in order.

    This thread looks itself while its helpers have enough to do, and where there can be none.
    """
    looked_at: deque[tuple[Entries, Task[bytes]]] = deque()
    with Team(helpers) as team:
        for batch in batches:
            waiting = sum(not task.is_done for _, task in looked_at)
            is_theirs = waiting < team.count * _AHEAD
            work = partial(look, batch)
            looked_at.append((batch, team.start(work) if is_theirs else Task(work)))
            while looked_at and (looked_at[0][1].is_done or len(looked_at) > _MOST_AHEAD):
                batch, task = looked_at.popleft()  # noqa: PLW2901
                yield batch, task.result()
        while looked_at:
            batch, task = looked_at.popleft()
            yield batch, task.result()


def paths_in_order(scorer: Scorer, start: str) -> Callable[[Sequence[Entry]], list[Entry]]:
    """Tells the entries whose paths hold the characters of a query in order.

    Args:
        scorer: of the query.
        start: what the paths begin with, which does not count.
    """
    holds, required, cut = scorer.holds, scorer.required, len(start)
    if not can_tell(required):
        return lambda entries: [entry for entry in entries if holds(entry.path, cut)]
    text, any_case = required
    cut_bytes = len(os.fsencode(start))

    def look(entries: Sequence[Entry]) -> list[Entry]:
        paths = [entry.path for entry in entries]
        flags = native.may_hold_in_order(paths, text, any_case, cut_bytes)
        return [entry for entry in compress(entries, flags) if holds(entry.path, cut)]

    return look
