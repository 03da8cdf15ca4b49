"""Finding files and directories by their names (spec/filesystem.md 9).

Everything here blocks: run it on search threads.
"""

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sandbox_api.core.metadata import raw_path
from sandbox_api.core.paths import printable
from sandbox_api.core.patterns import compile_patterns
from sandbox_api.core.searches.until import MOST_MATCHES, Outcome, Until
from sandbox_api.core.walk import Walk, WalkScope


@dataclass(frozen=True, slots=True, kw_only=True)
class FindQuery:
    """What is looked for.

    Attributes:
        directories: whether directories are wanted, else everything else.
        patterns: of which a file must fit one; all files where there are none.
        scope: what is left out.
        limit: the most matches; 0 is no limit.
    """

    directories: bool = False
    patterns: Sequence[str] = ()
    scope: WalkScope = field(default_factory=WalkScope)
    limit: int = 0


class FindMatch(NamedTuple):
    """One entry; `path` and `raw_path` are relative to the start, else as in `FileInfo`."""

    path: str
    raw_path: bytes | None
    type: str


def match_of(path: str, *, directory: bool) -> FindMatch:
    """The match of a path."""
    return FindMatch(printable(path), raw_path(path), "directory" if directory else "file")


def find(root: str, query: FindQuery, until: Until) -> Outcome[FindMatch]:
    """All that fits, depth first and bytewise by name.

    A start that is no directory, or a link, is its own only match, `.`; a directory is one too,
    before what is in it.

    Args:
        root: absolute; where to begin.
        query: what is looked for.
        until: when to end early.

    Raises:
        OSError: there is no root, or it is a directory that cannot be read.
        InvalidError: the patterns are too many.
    """
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        return _find_file(root, query)
    limit, wanted = query.limit or MOST_MATCHES, query.directories
    matches = [match_of(".", directory=True)] if wanted else []
    walk = Walk(root, query.scope, until)
    for path in _fitting(walk, root, query):
        if len(matches) >= limit:
            return Outcome(matches, truncated=True, timed_out=False, unreadable=walk.unreadable)
        matches.append(match_of(path, directory=wanted))
    return Outcome(matches, until.timed_out, until.timed_out, walk.unreadable)


def _find_file(path: str, query: FindQuery) -> Outcome[FindMatch]:
    name, fits = posixpath.basename(path), compile_patterns(query.patterns)
    fitting = not query.directories and (fits is None or fits.fit(name, name))
    matches = [match_of(".", directory=False)] if fitting else []
    return Outcome(matches, truncated=False, timed_out=False, unreadable=0)


def _fitting(walk: Walk, root: str, query: FindQuery) -> Iterator[str]:
    """The paths below the root that are looked for; patterns do not count for directories."""
    fits = None if query.directories else compile_patterns(query.patterns)
    cut = len(root.rstrip("/")) + 1
    for directory, entries in walk.runs():
        if directory is query.directories:
            paths = [entry.path[cut:] for entry in entries]
            if fits is None:
                yield from paths
            else:
                fit = fits.fit
                yield from (p for p, e in zip(paths, entries, strict=True) if fit(e.name, p))
