"""Which files and paths are worth a look: a quick "no" for nearly all of them.

The module `_native` gives it for many at once, without the interpreter's lock, so on several cores.
It never says "no" where there is a match, and what it lets through is looked at as if it had not
been asked: without it, searches give the same and take longer. It is not there where the package
was installed without a C compiler.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import compress
from typing import Final, TypeGuard

from sandbox_api.core.searches.matching import Required
from sandbox_api.core.searches.scoring import Scorer
from sandbox_api.core.searches.until import Until

try:
    from sandbox_api.core.searches import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

BATCH: Final = 256  # entries that are looked at in one call
MOST_THREADS: Final = 4  # of one search
_AHEAD = 4  # batches for each thread that are looked at before their turn

Entries = list[os.DirEntry[str]]


def in_batches(runs: Iterable[Entries]) -> Iterator[Entries]:
    """The same entries, in lists of `BATCH`; the last one is shorter."""
    waiting: Entries = []
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
    runs: Iterable[Entries], required: Required, binary_bytes: int, until: Until
) -> Generator[Entries]:
    """The files that may hold a text, in the same order.

    The threads that read them act as the user of the calling one: Linux gives a new thread the
    identity of the thread that starts it (credentials(7)).

    Args:
        runs: regular files.
        required: what they have to hold; of what `can_tell` says yes to.
        binary_bytes: how far from its beginning a NUL makes a file binary: that is left out.
        until: when to end early; then files are told of which nothing is known.
    """

    def look(files: Entries) -> bytes:
        text, any_case = required
        return native.may_hold(_joined(files), text, any_case, binary_bytes, until.end_s)

    count = min(len(os.sched_getaffinity(0)), MOST_THREADS)
    waiting: deque[tuple[Entries, Future[bytes]]] = deque()
    with ThreadPoolExecutor(count, "scan") as threads:
        try:
            for files in in_batches(runs):
                waiting.append((files, threads.submit(look, files)))
                if len(waiting) > count * _AHEAD:
                    yield _worth(*waiting.popleft())
            while waiting:
                yield _worth(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _worth(files: Entries, flags: Future[bytes]) -> Entries:
    return list(compress(files, flags.result()))


def paths_in_order(scorer: Scorer, start: str) -> Callable[[Entries], Entries]:
    """Tells the entries whose paths hold the characters of a query in order.

    Args:
        scorer: of the query.
        start: what the paths begin with, which does not count.
    """
    holds, required = scorer.holds, scorer.required
    if not can_tell(required):
        return lambda entries: [entry for entry in entries if holds(entry.path, len(start))]
    cut = len(os.fsencode(start))

    def look(entries: Entries) -> Entries:
        return list(compress(entries, native.hold_in_order(_joined(entries), *required, cut)))

    return look


def _joined(entries: Entries) -> bytes:
    return os.fsencode("\0".join([entry.path for entry in entries]))
