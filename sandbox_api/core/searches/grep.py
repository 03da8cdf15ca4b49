"""Searching the content of files (spec/filesystem.md 11).

Everything here blocks: run it on search threads. Small files, most of all, are read by one call
into one buffer, which is what makes this as fast as it is; large ones pass through in blocks.
"""

import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sandbox_api.core.metadata import raw_path
from sandbox_api.core.paths import printable
from sandbox_api.core.patterns import compile_patterns
from sandbox_api.core.regular import READ_FLAGS
from sandbox_api.core.searches.lines import FoundLine, LineSearch, lines_before
from sandbox_api.core.searches.matching import Matcher
from sandbox_api.core.searches.prefilter import can_tell, files_worth_reading
from sandbox_api.core.searches.until import MOST_MATCHES, Until
from sandbox_api.core.walk import Walk, WalkScope

BUFFER_BYTES: Final = 128 * 1024
BLOCK_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 2 << 20  # a longer line is searched in pieces
MAX_ANSWER: Final = 32 << 20  # characters
MATCH_OVERHEAD: Final = 200  # characters that a match counts beside its text
BINARY_BYTES: Final = 8000  # where a NUL is looked for, as git does
MOST_CONTEXT_LINES: Final = 50
PSEUDO: Final = ("/proc", "/sys")  # what a search that begins there reads is made up
_CHECK_EVERY = 64  # small files between two looks whether to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class GrepQuery:
    """What is looked for, and where.

    Attributes:
        text: a literal, or a regular expression; not empty, without a newline.
        regex: which of the two it is.
        case_sensitive: whether upper and lower case differ.
        patterns: of which a file must fit one; all files where there are none.
        excluded: patterns of which a file must fit none.
        context_lines: how many lines before and after a match are told.
        binary: whether files are searched that hold a NUL near their beginning.
        scope: what is left out.
        limit: the most matches; 0 is no limit.
    """

    text: str
    regex: bool = False
    case_sensitive: bool = False
    patterns: Sequence[str] = ()
    excluded: Sequence[str] = ()
    context_lines: int = 0
    binary: bool = False
    scope: WalkScope = field(default_factory=WalkScope)
    limit: int = 0


class GrepMatch(NamedTuple):
    """A line that matches.

    Attributes:
        path: relative to the start, for people and JSON.
        raw_path: the path as bytes; only where `path` cannot say it, for it is not UTF-8.
        line: from 1 on.
        column: of its first match, in characters from 1 on.
        text: the line, without its newline; of a long one the part around the match.
        context: the line with those around it; None where it was not asked for.
    """

    path: str
    raw_path: bytes | None
    line: int
    column: int
    text: str
    context: str | None


class _EnoughError(Exception):
    """There are as many matches as were asked for."""


class Grep:
    """One search; call `run` once.

    Args:
        root: absolute; a directory.
        query: what is looked for.
        matcher: holds lines against the query's text.
        until: when to end early.
        emit: is given each match, in the order of the walk and of the lines.
        helpers: how many threads may read files beside the one that calls.

    Attributes:
        truncated: whether there were more matches than were told.
        unreadable: how many files and directories could not be read.

    Raises:
        InvalidError: the patterns are too many.
    """

    def __init__(
        self,
        root: str,
        query: GrepQuery,
        matcher: Matcher,
        until: Until,
        emit: Callable[[GrepMatch], None],
        *,
        helpers: int = 0,
    ) -> None:
        self.truncated = False
        self._query = query
        self._matcher = matcher
        self._until = until
        self._emit = emit
        self._helpers = helpers
        self._fits = compile_patterns(query.patterns)
        self._excludes = compile_patterns(query.excluded)
        self._cut = len(root.rstrip("/")) + 1
        self._walk = Walk(root, query.scope, until)
        self._unreadable_files = 0
        self._left = query.limit or MOST_MATCHES
        self._left_characters = MAX_ANSWER
        # a pseudo file may give less than it has at a time; there an end is only an empty read
        self._is_pseudo = root.startswith(PSEUDO)

    @property
    def unreadable(self) -> int:
        return self._walk.unreadable + self._unreadable_files

    def run(self) -> None:
        """Search all files.

        Raises:
            OSError: the root cannot be read.
        """
        try:
            self._search_files()
        except _EnoughError:
            self.truncated = True

    def _search_files(self) -> None:
        buffers = [bytearray(BUFFER_BYTES)]
        with closing(self._files()) as runs:
            for entries in runs:
                for seen, entry in enumerate(entries):
                    if seen % _CHECK_EVERY == 0 and self._until():
                        return
                    try:
                        self._search_file(entry.path, buffers)
                    except FileNotFoundError:
                        continue  # it vanished meanwhile
                    except OSError:
                        self._unreadable_files += 1

    def _files(self) -> Generator[list[os.DirEntry[str]]]:
        """What may match, in the order of the walk."""
        runs = (
            [entry for entry in entries if self._is_wanted(entry)]
            for directory, entries in self._walk.runs()
            if not directory
        )
        required = self._matcher.required
        if self._is_pseudo or not can_tell(required):
            return runs
        binary_bytes = 0 if self._query.binary else BINARY_BYTES
        return files_worth_reading(runs, required, binary_bytes, self._until, self._helpers)

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        """Whether it is a regular file of which the content is to be searched."""
        try:
            if not entry.is_file(follow_symlinks=False):
                return False
        except FileNotFoundError:
            return False  # it vanished meanwhile
        except OSError:  # of some entry the system does not tell
            self._unreadable_files += 1
            return False
        path, fits, excludes = entry.path, self._fits, self._excludes
        if fits is not None and not fits.fit(entry.name, path[self._cut :]):
            return False
        return excludes is None or not excludes.fit(entry.name, path[self._cut :])

    def _search_file(self, path: str, buffers: list[bytearray]) -> None:
        buffer = buffers[0]
        fd = os.open(path, READ_FLAGS | os.O_NOFOLLOW)
        try:
            size = os.readv(fd, buffers)
            if size == BUFFER_BYTES or (size and self._is_pseudo):
                self._search_large(path, fd, bytes(buffer[:size]))
            elif self._matcher.may_match(buffer, size):
                self._search_small(path, bytes(buffer[:size]))
        finally:
            os.close(fd)

    def _search_small(self, path: str, data: bytes) -> None:
        if not self._is_skipped(data):
            self._search(path).block(data, 0, len(data))

    def _search_large(self, path: str, fd: int, data: bytes) -> None:
        if self._is_skipped(data) or not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        search, begin, more = self._search(path), 0, True
        while more and not self._until():
            chunk = os.read(fd, BLOCK_BYTES)
            more = bool(chunk)
            data += chunk
            end = self._end_of_lines(data, begin) if more else len(data)
            if end > begin:
                keep = search.block(data, begin, end)
            elif len(data) - begin >= MAX_LINE_BYTES:
                keep = end = search.piece(data, begin)
            else:
                continue
            data, begin = data[keep:], end - keep

    def _end_of_lines(self, data: bytes, begin: int) -> int:
        """Where the last line ends that has its context behind it; `begin` where none does."""
        end = data.rfind(b"\n", begin) + 1
        return max(begin, lines_before(data, end, self._query.context_lines))

    def _is_skipped(self, data: bytes) -> bool:
        return not self._query.binary and data.find(b"\0", 0, BINARY_BYTES) >= 0

    def _search(self, path: str) -> LineSearch:
        relative = path[self._cut :]
        shown, raw = printable(relative), raw_path(relative)

        def take(found: FoundLine) -> None:
            self._count(found)
            self._emit(GrepMatch(shown, raw, found.number, found.column, found.text, found.context))

        return LineSearch(self._matcher, self._query.context_lines, take)

    def _count(self, found: FoundLine) -> None:
        if self._left == 0 or self._left_characters <= 0:
            raise _EnoughError
        self._left -= 1
        size = len(found.text) + len(found.context or "")
        self._left_characters -= size + MATCH_OVERHEAD
