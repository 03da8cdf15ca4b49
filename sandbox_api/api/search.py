"""Searches: by name, by characters of the path, by content (spec/filesystem.md 9 to 11)."""

from itertools import chain
from typing import Final, TypeVar

from aiohttp import web
from pydantic import TypeAdapter

from sandbox_api.api import query
from sandbox_api.api.listing import batched, dump_entries, write_list
from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.schemas.searches import (
    ContentMatch,
    ContentReply,
    FindMatch,
    FindReply,
    FuzzyMatch,
    FuzzyReply,
)
from sandbox_api.api.wire import FILES, JSON_TYPE, SEARCHES, client_path, json_bytes_reply
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.searches.find import FindQuery
from sandbox_api.core.searches.fuzzy import FuzzyQuery
from sandbox_api.core.searches.grep import MOST_CONTEXT_LINES, GrepQuery
from sandbox_api.core.searches.until import Outcome
from sandbox_api.core.walk import SEARCH_EXCLUDES, WalkScope
from sandbox_api.errors import InvalidError

M = TypeVar("M")
E = TypeVar("E")

FIND_PREFIX: Final = "/filesystem-find"
FUZZY_PREFIX: Final = "/filesystem-search"
CONTENT_PREFIX: Final = "/filesystem-content-search"
_REST = r"/{path:[\s\S]*}"  # names may hold line breaks

DEFAULT_FOUND: Final = 20
DEFAULT_LINES: Final = 100
MAX_QUERY: Final = 4096  # characters: no path is longer, and no line of code

_TYPES: Final = {"file": False, "directory": True}
_FIND_MATCHES = TypeAdapter(list[FindMatch])
_FUZZY_MATCHES = TypeAdapter(list[FuzzyMatch])
_CONTENT_MATCHES = TypeAdapter(list[ContentMatch])
_LIST = b'"matches":[]'


async def find(request: web.Request) -> web.StreamResponse:
    """Files or directories by their names."""
    kind = request.query.get("type", "") or "file"
    if kind not in _TYPES:
        raise InvalidError(f"invalid search type: {kind:.40}; file or directory is expected")
    wanted = FindQuery(
        directories=_TYPES[kind],
        patterns=query.patterns(request),
        scope=_scope(request, exclude_hidden=True),
        limit=query.limit(request, DEFAULT_FOUND),
    )
    outcome = await request.app[SEARCHES].find(_location(request, FIND_PREFIX), wanted)
    return await _send(request, outcome, FindReply, _FIND_MATCHES)


async def search(request: web.Request) -> web.StreamResponse:
    """Files and directories by some characters of their paths, the best first.

    Without a query the path is both: the directory, and what is looked for. Clients of the
    reference know it so, where a directory that is missing holds nothing.
    """
    path = client_path(request, FUZZY_PREFIX)
    text = _text(request)
    if not text and path in {"", ".", "/"}:
        raise InvalidError(
            "query parameter is required in path: send query=…, with the directory as the path"
        )
    wanted = FuzzyQuery(
        text=text or path,
        plain=not text,
        approximate=query.flag(request, "approximate"),
        patterns=query.patterns(request),
        scope=_scope(request, exclude_hidden=True),
        limit=query.limit(request, DEFAULT_FOUND),
    )
    outcome = await request.app[SEARCHES].fuzzy(request.app[FILES].resolve(path), wanted)
    return await _send(request, outcome, FuzzyReply, _FUZZY_MATCHES)


async def search_content(request: web.Request) -> web.StreamResponse:
    """Lines of files by what they hold."""
    text = _text(request)
    if not text:
        raise InvalidError("query parameter is required")
    if "\n" in text:
        raise InvalidError("invalid query: it holds a line break, and each line is searched alone")
    wanted = GrepQuery(
        text=text,
        regex=query.flag(request, "regex"),
        case_sensitive=query.flag(request, "caseSensitive"),
        patterns=query.patterns(request, "filePattern"),
        context_lines=min(query.number(request, "contextLines", 0), MOST_CONTEXT_LINES),
        binary=query.flag(request, "binary"),
        scope=_scope(request, exclude_hidden=False),
        limit=query.limit(request, DEFAULT_LINES),
    )
    outcome = await request.app[SEARCHES].grep(_location(request, CONTENT_PREFIX), wanted)
    return await _send(request, outcome, ContentReply, _CONTENT_MATCHES, query=printable(text))


async def head_find(request: web.Request) -> web.Response:
    """Only whether the directory is there."""
    return await _head(request, FIND_PREFIX)


async def head_search(request: web.Request) -> web.Response:
    """Only whether the directory is there."""
    return await _head(request, FUZZY_PREFIX)


async def head_content(request: web.Request) -> web.Response:
    """Only whether the directory is there."""
    return await _head(request, CONTENT_PREFIX)


async def _head(request: web.Request, prefix: str) -> web.Response:
    await request.app[SEARCHES].check(_location(request, prefix))
    return web.Response(headers={"Content-Type": JSON_TYPE})


def _location(request: web.Request, prefix: str) -> Location:
    return request.app[FILES].resolve(client_path(request, prefix))


def _text(request: web.Request) -> str:
    text = request.query.get("query", "")
    if len(text) > MAX_QUERY:
        raise InvalidError(f"invalid query: longer than {MAX_QUERY} characters")
    return text


def _scope(request: web.Request, *, exclude_hidden: bool) -> WalkScope:
    """What a search leaves out.

    Args:
        request: the request.
        exclude_hidden: whether hidden names are left out where the request does not say.
    """
    hidden = request.query.get("excludeHidden")
    # an empty list is the default; a list of empty names, as in `,`, excludes nothing
    named = frozenset(query.names(request, "excludeDirs"))
    return WalkScope(
        exclude_directories=named if request.query.get("excludeDirs") else SEARCH_EXCLUDES,
        exclude_hidden=exclude_hidden if hidden is None else hidden == "true",
        gitignore=query.flag(request, "gitignore"),
    )


async def _send(
    request: web.Request,
    outcome: Outcome[M],
    model: type[WireModel],
    adapter: TypeAdapter[list[E]],
    **more: str,
) -> web.StreamResponse:
    """Reply with a model's JSON into which the matches are put, many of them piece by piece.

    Args:
        request: the request.
        outcome: what was found; its matches are taken out.
        model: of the reply.
        adapter: of its matches.
        more: other fields of the reply.
    """
    matches = outcome.matches
    facts = {
        "total": len(matches),
        "truncated": outcome.truncated,
        "timed_out": outcome.timed_out,
        "unreadable": outcome.unreadable,
    }
    frame = model.model_validate({"matches": [], **facts, **more})
    begin, _, end = frame.model_dump_json().encode().rpartition(_LIST)
    begin, end = begin + _LIST[:-1], b"]" + end
    pieces = (dump_entries(adapter, some) for some in batched(matches))
    first, second = next(pieces, b""), next(pieces, None)
    if second is None:
        return json_bytes_reply(begin + first + end)
    response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
    await response.prepare(request)
    await response.write(begin)
    await write_list(response, chain((first, second), pieces))
    await response.write_eof(end)
    return response


ROUTES = tuple(
    route
    for prefix, get, head in (
        (FIND_PREFIX, find, head_find),
        (FUZZY_PREFIX, search, head_search),
        (CONTENT_PREFIX, search_content, head_content),
    )
    for route in (
        web.get(prefix + _REST, get, allow_head=False),
        web.head(prefix + _REST, head),
    )
)
