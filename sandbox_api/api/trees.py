"""Directories as wholes: GET, PUT and DELETE of `/filesystem/tree` (spec/filesystem.md 7).

The path is always absolute, however it is written, and `~` is a name like any other.
"""

from aiohttp import web

from sandbox_api.api import query
from sandbox_api.api.conditions import wanted_condition
from sandbox_api.api.listing import send_directory, send_tree, wanted_page
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.trees import WriteTreeRequest
from sandbox_api.api.wire import (
    FILE_THREADS,
    FILES,
    JSON_TYPE,
    SETTINGS,
    TREES,
    PatientDecoder,
    client_path,
    json_reply,
    parse_json,
    read_body,
)
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.trees import DEFAULT_MAX_BYTES, DEFAULT_MAX_FILES, TreeQuery
from sandbox_api.core.walk import WalkScope

PREFIX = "/filesystem/tree"
PATTERN = PREFIX + r"/{path:[\s\S]*}"

DELETED = "Directory deleted successfully"


async def read_tree(request: web.Request) -> web.StreamResponse:
    """One level of a directory, or with `recursive=true` all that is below it."""
    location = _location(request)
    if query.flag(request, "recursive"):
        return await send_tree(
            request, await request.app[TREES].read(location, _tree_query(request))
        )
    directory = await request.app[TREES].list(location, wanted_page(request))
    return await send_directory(request, directory)


async def head_tree(request: web.Request) -> web.Response:
    """Only whether the directory is there."""
    await request.app[TREES].check(_location(request))
    return web.Response(headers={"Content-Type": JSON_TYPE})


async def write_tree(request: web.Request) -> web.StreamResponse:
    """Write many files below a directory, all keys checked first."""
    body = await read_body(
        request,
        request.app[SETTINGS].max_tree_bytes,
        "send it as a tar stream, with PUT /filesystem/{path}/ and Content-Type: application/x-tar",
    )
    location = _location(request)
    tree = await request.app[FILE_THREADS].run(parse_json, body, WriteTreeRequest, PatientDecoder())
    directory = await request.app[TREES].write(
        location,
        tree.files,
        sync=query.flag(request, "sync"),
        condition=wanted_condition(request),
    )
    return await send_directory(request, directory)


async def delete_tree(request: web.Request) -> web.Response:
    """Delete a directory."""
    location = _location(request)
    await request.app[TREES].delete(
        location,
        recursive=query.flag(request, "recursive"),
        force=query.flag(request, "force"),
        condition=wanted_condition(request),
    )
    return json_reply(PathReply(path=printable(location.shown), message=DELETED))


def _location(request: web.Request) -> Location:
    return request.app[FILES].resolve("/" + client_path(request, PREFIX))


def _tree_query(request: web.Request) -> TreeQuery:
    return TreeQuery(
        content=query.flag(request, "content"),
        encoding=query.encoding(request),
        patterns=query.patterns(request),
        scope=WalkScope(
            exclude_directories=frozenset(query.names(request, "excludeDirs")),
            exclude_hidden=query.flag(request, "excludeHidden"),
        ),
        max_files=query.number(request, "maxFiles", DEFAULT_MAX_FILES),
        max_bytes=query.number(request, "maxBytes", DEFAULT_MAX_BYTES),
    )


ROUTES = (
    web.get(PATTERN, read_tree, allow_head=False),
    web.head(PATTERN, head_tree),
    web.put(PATTERN, write_tree),
    web.delete(PATTERN, delete_tree),
)
