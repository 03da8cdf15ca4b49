"""Tools that find: names, paths, lines, and snippets for a question."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final, Literal

from pydantic import Field

from sandbox_api.api.mcp.schemas import Arguments, Integer, OptionalFlag, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool, failing
from sandbox_api.api.schemas.searches import FindMatch, FuzzyMatch
from sandbox_api.api.wire import FILES, SEARCHES
from sandbox_api.core.codegen.snippets import SnippetSearch
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.refusals import operation
from sandbox_api.core.searches.find import FindQuery
from sandbox_api.core.searches.fuzzy import FuzzyQuery
from sandbox_api.core.searches.grep import GrepMatch, GrepQuery
from sandbox_api.core.searches.until import Until
from sandbox_api.core.walk import SEARCH_EXCLUDES, WalkScope
from sandbox_api.errors import InvalidError, NotFoundError

DEFAULT_FOUND: Final = 20
MOST_FOUND: Final = 1000
FILE_SEARCH_FOUND: Final = 10
FILE_SEARCH_RANKED: Final = 200  # directories among them are left out
GREP_FOUND: Final = 100
MAX_QUERY: Final = 4096  # characters
MOST_DIRECTORIES: Final = 20

DIRECTORY: Final = "Directory, absolute or relative to the working directory; empty for that itself"
PATTERNS: Final = "Shell patterns such as *.py or src/**, of which a path must fit one"
_CODE: Final = WalkScope(exclude_directories=SEARCH_EXCLUDES, exclude_hidden=True, gitignore=True)


class FindArguments(Arguments):
    path: str = Field(description=DIRECTORY)
    patterns: list[str] | None = Field(None, description=PATTERNS)
    type: Literal["file", "directory"] | None = Field(None, description="file if absent")
    max_results: Integer | None = Field(None, description="20 by default, 1000 at most")
    include_hidden: bool | None = Field(
        None, description="Look at hidden names, and into directories such as node_modules, too"
    )


class FuzzyArguments(Arguments):
    path: str = Field(description=DIRECTORY)
    query: str = Field(description="Characters of the path in order, such as usrctl")
    patterns: list[str] | None = Field(None, description=PATTERNS)
    approximate: bool | None = Field(None, description="Find what is only like the query too")
    max_results: Integer | None = Field(None, description="20 by default, 1000 at most")
    include_hidden: bool | None = Field(
        None, description="Look at hidden names, and into directories such as node_modules, too"
    )


class FileSearchArguments(Arguments):
    query: str = Field(description="Characters of the path in order; case does not count")
    directory: str | None = Field(None, description="Directory below the working directory")


class GrepArguments(Arguments):
    query: str = Field(description="Regular expression that a line must match")
    case_sensitive: bool | None = Field(None, description="Whether case counts; it does not")
    include_pattern: str | None = Field(None, description="Shell pattern of the files to search")
    exclude_pattern: str | None = Field(None, description="Shell pattern of the files to leave out")


class CodebaseArguments(Arguments):
    query: str = Field(description="Question or words that the code is about")
    target_directories: list[str] | None = Field(
        None, description="Directories to search; the working directory if absent"
    )


class FindResult(Result):
    matches: list[FindMatch]
    total: int
    truncated: bool


class FuzzyResult(Result):
    matches: list[FuzzyMatch]
    total: int
    truncated: bool


class FileSearchResult(Result):
    success: bool
    matches: list[str]
    query: str
    truncated: OptionalFlag = False


class GrepResult(Result):
    success: bool
    results: str
    truncated: OptionalFlag = False


class SnippetResult(Result):
    path: str
    start_line: int
    end_line: int
    score: float
    content: str


class CodebaseResult(Result):
    success: bool
    results: list[SnippetResult]
    query: str
    truncated: OptionalFlag = False


async def find(call: Call, wanted: FindArguments) -> FindResult:
    query = FindQuery(
        directories=wanted.type == "directory",
        patterns=wanted.patterns or (),
        scope=_scope(wanted.include_hidden),
        limit=_limit(wanted.max_results),
    )
    with failing("failed to find", "error walking directory"):
        outcome = await call.app[SEARCHES].find(call.app[FILES].resolve(wanted.path), query)
    matches = [FindMatch.model_validate(match) for match in outcome.matches]
    return FindResult(matches=matches, total=len(matches), truncated=outcome.truncated)


async def fuzzy(call: Call, wanted: FuzzyArguments) -> FuzzyResult:
    with failing("failed to search", "error walking directory"):
        query = FuzzyQuery(
            text=_checked(wanted.query),
            approximate=bool(wanted.approximate),
            patterns=wanted.patterns or (),
            scope=_scope(wanted.include_hidden),
            limit=_limit(wanted.max_results),
        )
        outcome = await call.app[SEARCHES].fuzzy(call.app[FILES].resolve(wanted.path), query)
    matches = [FuzzyMatch.model_validate(match) for match in outcome.matches]
    return FuzzyResult(matches=matches, total=len(matches), truncated=outcome.truncated)


async def search_files(call: Call, wanted: FileSearchArguments) -> FileSearchResult:
    location = _within_workspace(call, wanted.directory or "")
    scope = WalkScope(exclude_directories=SEARCH_EXCLUDES)
    with failing("file search failed", "error walking directory"):
        try:
            paths, truncated = await _paths(call, location, wanted.query, scope)
        except NotFoundError:
            raise NotFoundError(f"directory not found: {wanted.directory}") from None
    base = location.absolute.rstrip("/")
    return FileSearchResult(
        success=True,
        matches=[f"{printable(base)}/{path}" for path in paths],
        query=wanted.query,
        truncated=truncated,
    )


async def _paths(
    call: Call, location: Location, text: str, scope: WalkScope
) -> tuple[list[str], bool]:
    """The paths that fit best, and whether there are more; an empty text fits all of them."""
    searches = call.app[SEARCHES]
    if not text:
        found = await searches.find(location, FindQuery(scope=scope, limit=FILE_SEARCH_FOUND))
        return [match.path for match in found.matches], found.truncated
    query = FuzzyQuery(text=_checked(text), scope=scope, limit=FILE_SEARCH_RANKED)
    ranked = await searches.fuzzy(location, query)
    files = [match.path for match in ranked.matches if match.type == "file"]
    more = ranked.truncated or len(files) > FILE_SEARCH_FOUND
    return files[:FILE_SEARCH_FOUND], more


async def grep(call: Call, wanted: GrepArguments) -> GrepResult:
    with failing("grep search failed", "error walking directory"):
        query = GrepQuery(
            text=_checked(wanted.query),
            regex=True,
            case_sensitive=bool(wanted.case_sensitive),
            patterns=[wanted.include_pattern] if wanted.include_pattern else (),
            excluded=[wanted.exclude_pattern] if wanted.exclude_pattern else (),
            scope=_CODE,
            limit=GREP_FOUND,
        )
        outcome = await call.app[SEARCHES].grep(call.app[FILES].resolve(""), query)
    lines = _events(outcome.matches, outcome.truncated)
    results = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return GrepResult(success=True, results=results, truncated=outcome.truncated)


def _events(matches: Iterable[GrepMatch], truncated: bool) -> Iterator[dict[str, object]]:
    """Matches in the form of `rg --json`, as far as a reader needs it."""
    count = files = 0
    for path, of_file in groupby(matches, lambda match: match.path):
        shown, files, before = {"text": path}, files + 1, count
        yield {"type": "begin", "data": {"path": shown}}
        for match in of_file:
            count += 1
            data = {
                "path": shown,
                "lines": {"text": match.text + "\n"},
                "line_number": match.line,
                "column": match.column,
            }
            yield {"type": "match", "data": data}
        yield {"type": "end", "data": {"path": shown, "stats": {"matched_lines": count - before}}}
    stats = {"matched_lines": count, "searches_with_match": files}
    yield {"type": "summary", "data": {"stats": stats, "truncated": truncated}}


async def search_codebase(call: Call, wanted: CodebaseArguments) -> CodebaseResult:
    with failing("codebase search failed"):
        _checked(wanted.query)
        directories = wanted.target_directories or [""]
        if len(directories) > MOST_DIRECTORIES:
            raise InvalidError(f"more than {MOST_DIRECTORIES} targetDirectories")
        roots = [call.app[FILES].resolve(one).absolute for one in directories]

        def run(until: Until) -> tuple[SnippetSearch, list[SnippetResult]]:
            search = SnippetSearch(wanted.query, until)
            with operation("open", ", ".join(roots)):
                found = search.run(roots)
            return search, [
                SnippetResult(
                    path=one.path,
                    start_line=one.start,
                    end_line=one.end,
                    score=one.score,
                    content=one.content,
                )
                for one in found
            ]

        search, results = await call.app[SEARCHES].run(run)
    return CodebaseResult(
        success=True, results=results, query=wanted.query, truncated=search.truncated
    )


def _checked(query: str) -> str:
    if not query or len(query) > MAX_QUERY or "\n" in query:
        raise InvalidError(f"query must be 1 to {MAX_QUERY} characters without a line break")
    return query


def _limit(wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise InvalidError(f"invalid maxResults {wanted}: it is at least 1")
    return min(wanted or DEFAULT_FOUND, MOST_FOUND)


def _scope(include_hidden: bool | None) -> WalkScope:
    if include_hidden:
        return WalkScope()
    return WalkScope(exclude_directories=SEARCH_EXCLUDES, exclude_hidden=True)


def _within_workspace(call: Call, directory: str) -> Location:
    files = call.app[FILES]
    location, workspace = files.resolve(directory), files.paths.workdir.rstrip("/")
    if not f"{location.absolute}/".startswith(f"{workspace}/"):
        raise InvalidError(
            "directory must be within workspace; use fsFind or fsSearch for other directories"
        )
    return location


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "fsFind",
        "Find files or directories below a directory by shell patterns of their names or paths.",
        FindArguments,
        FindResult,
        find,
        Hints(title="Find by name", read_only=True),
    ),
    Tool(
        "fsSearch",
        "Find files and directories below a directory by some characters of their paths, the best "
        "first; with approximate, mistyped names too.",
        FuzzyArguments,
        FuzzyResult,
        fuzzy,
        Hints(title="Search paths", read_only=True),
    ),
    Tool(
        "codegenFileSearch",
        "Fast fuzzy search for files by their paths, when you know a part of the name. Returns the "
        "10 best, as absolute paths. The optional directory narrows it.",
        FileSearchArguments,
        FileSearchResult,
        search_files,
        Hints(title="Search files", read_only=True),
    ),
    Tool(
        "codegenGrepSearch",
        "Exact search in the content of files below the working directory by a regular expression, "
        "when you know the symbol or text. Returns up to 100 matching lines as JSON lines, as "
        "ripgrep has them. Hidden and ignored files are left out.",
        GrepArguments,
        GrepResult,
        grep,
        Hints(title="Search content", read_only=True),
    ),
    Tool(
        "codegenCodebaseSearch",
        "Find the snippets of code that fit a question or some words best, ranked by how rare the "
        "words are. For exact texts use codegenGrepSearch.",
        CodebaseArguments,
        CodebaseResult,
        search_codebase,
        Hints(title="Search the codebase", read_only=True),
    ),
)
