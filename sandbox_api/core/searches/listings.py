"""Reads many directories in one call, and ahead of a walk, on other cores.

The module `_native` does so without the interpreter's lock, while the walk looks at what was read
before. What it does not know, and all where it is not there, is read one by one as in every walk.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Final, TypeVar

from sandbox_api.core.searches.helpers import Task, Team
from sandbox_api.core.walk import Pieces, scan

try:
    from sandbox_api.core.searches import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

BATCH: Final = 64  # directories that are read in one call
_AHEAD = 2  # batches for each helper
_FEW = 4  # directories that are read sooner than a helper has them
_HOPELESS = 16  # directories of which nothing was known, in a row: so many are not all large
_PATIENCE_S = 0.002  # with a helper: most often a batch takes less than 1 ms

T = TypeVar("T")
_Answers = list[bytes | int | None]


def listings(unread: list[tuple[str, T]], helpers: int) -> Generator[tuple[str, T, Pieces]]:
    """Directories and what is in them, until none is left; those that come last are read first.

    Args:
        unread: paths, and what is told with them; emptied. More may be added at any time.
        helpers: how many threads to start.
    """
    with closing(_answered(unread, helpers)) as answered:
        for batch, answers in answered:
            for (path, more), answer in zip(batch, answers, strict=True):
                yield path, more, _entries(path, answer)


def _answered(
    unread: list[tuple[str, T]], helpers: int
) -> Generator[tuple[list[tuple[str, T]], _Answers]]:
    """Some directories at a time, and what the module says of them: None where it is not asked."""
    if native is not None:
        yield from _read_ahead(unread, helpers)
    while unread:
        yield [unread.pop()], [None]


def _read_ahead(
    unread: list[tuple[str, T]], helpers: int
) -> Generator[tuple[list[tuple[str, T]], _Answers]]:
    """As `_answered`, until none is left or the module has known nothing of several in a row.

    Such a file system tells no types, and to ask on would be to read each of its directories twice.

    This thread waits for helpers that read, where they are not slow, even if it could do so itself:
    between two batches they need the interpreter's lock, for which they would wait longer. It does
    read what is too little to hand over, as in a tree that is narrow.
    """
    reading: deque[tuple[list[tuple[str, T]], Task[_Answers]]] = deque()
    unknown = 0  # directories, in a row
    with Team(helpers) as team:
        while (unread or reading) and unknown < _HOPELESS:
            ahead = team.count * _AHEAD if reading or len(unread) > _FEW else 0
            while unread and len(reading) < ahead:
                batch = _take(unread, team.count + 1)
                reading.append((batch, team.start(_reading(batch))))
            if unread and not (reading and reading[0][1].ends_within(_PATIENCE_S)):
                batch = _take(unread, team.count + 1 if reading else 1)
                reading.appendleft((batch, Task(_reading(batch))))
            batch, task = reading.popleft()
            answers = task.result()
            unread += batch[len(answers) :]
            unknown = unknown + len(answers) if answers.count(None) == len(answers) else 0
            yield batch[: len(answers)], answers
    for batch, _ in reading:
        unread += batch


def _take(unread: list[T], parts: int) -> list[T]:
    """The last ones: a batch, or less where all would have too little to do."""
    count = min(BATCH, -(-len(unread) // parts))
    batch = unread[-count:]
    del unread[-count:]
    return batch


def _reading(batch: list[tuple[str, T]]) -> Callable[[], _Answers]:
    paths = os.fsencode("\0".join([path for path, _ in batch]))
    return lambda: native.read_directories(paths)


def _entries(path: str, answer: bytes | int | None) -> Pieces:
    """What the module has read, as entries: some at a time, for that takes the lock."""
    if answer is None:
        yield from _scan(path)
    elif isinstance(answer, int):
        raise OSError(answer, os.strerror(answer), path)
    else:
        start, place = path + "/", 0
        while place < len(answer):
            entries, place = native.entries(answer, place, start)
            yield entries


def _scan(path: str) -> Pieces:
    """What no module has read."""
    for some in scan(path):
        if os.path.islink(path):  # by which it was replaced: it was none when it was listed
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        yield some
