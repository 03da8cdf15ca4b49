"""POST /filesystem-copy and /filesystem-move: files and directories, within the sandbox."""

from aiohttp import web

from sandbox_api.api import query
from sandbox_api.api.schemas.copies import CopyReply, CopyRequest
from sandbox_api.api.wire import COPIES, json_reply, read_json, unquote_name
from sandbox_api.core.metadata import raw_path
from sandbox_api.core.paths import printable

COPIED = "Files copied"
MOVED = "Files moved"


async def copy_files(request: web.Request) -> web.Response:
    """Copy a file, a link or a directory."""
    body = await read_json(request, CopyRequest)
    path = await request.app[COPIES].copy(*_paths(body), exclusive=body.no_overwrite)
    return _reply(body, path, COPIED)


async def move_files(request: web.Request) -> web.Response:
    """Move a file, a link or a directory."""
    body = await read_json(request, CopyRequest)
    path = await request.app[COPIES].move(
        *_paths(body),
        exclusive=body.no_overwrite,
        force=query.flag(request, "force"),
    )
    return _reply(body, path, MOVED)


def _paths(body: CopyRequest) -> tuple[str, str]:
    source, destination = map(unquote_name, (body.raw_source, body.raw_destination))
    return source or body.source, destination or body.destination


def _reply(body: CopyRequest, path: str, message: str) -> web.Response:
    described = {
        "message": message,
        "source": body.source,
        "destination": body.destination,
        "path": printable(path),
        "raw_path": raw_path(path),
    }
    return json_reply(CopyReply.model_validate(described))


ROUTES = (
    web.post("/filesystem-copy", copy_files),
    web.post("/filesystem-move", move_files),
)
