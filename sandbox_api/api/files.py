"""GET, HEAD, PUT and DELETE of files and directories (spec/filesystem.md 4 to 6)."""

from aiohttp import web

from sandbox_api.api import query
from sandbox_api.api.conditions import wanted_condition
from sandbox_api.api.download import send_file
from sandbox_api.api.listing import send_directory, wanted_page
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.files import FileContentReply
from sandbox_api.api.tar import is_tar, receive_tar, send_tar, wants_tar
from sandbox_api.api.wire import FILES, JSON_TYPE, client_path, json_reply
from sandbox_api.api.writes import RAW_TYPE, write_form, write_json, write_raw
from sandbox_api.core.directories import Directory
from sandbox_api.core.paths import Location, printable

PREFIX = "/filesystem"
# `tree` as a whole segment is another resource; names may hold line breaks
PATTERN = PREFIX + r"/{path:(?!tree(?:/|%2F|$))[\s\S]*}"

DELETED = {True: "Directory deleted successfully", False: "File deleted successfully"}


async def read_file(request: web.Request) -> web.StreamResponse:
    """A directory's listing; a file as JSON, or as bytes where the client asks for them."""
    files, location = request.app[FILES], _location(request)
    if not _wants_bytes(request):
        found = await files.read(location, query.encoding(request), wanted_page(request))
        if isinstance(found, Directory):
            return await send_directory(request, found)
        reply = json_reply(FileContentReply.model_validate(found))
        if found.version:
            reply.headers["ETag"] = f'"{found.version}"'
        return reply
    opened = await files.open(location)
    if opened is None and wants_tar(request):
        return await send_tar(request, location)
    if opened is None:
        return await send_directory(request, await files.list(location, wanted_page(request)))
    return await send_file(request, opened)


async def head_file(request: web.Request) -> web.StreamResponse:
    """What describes a file's bytes; of a directory only that it is there."""
    location = _location(request)
    opened = await request.app[FILES].open(location)
    if opened is None and wants_tar(request):
        return await send_tar(request, location)
    if opened is None:
        return web.Response(headers={"Content-Type": JSON_TYPE})
    return await send_file(request, opened)


async def write_file(request: web.Request) -> web.Response:
    """Write a file from JSON, a form or raw bytes, or make a directory."""
    location = _location(request)
    if is_tar(request):
        return await receive_tar(request, location)
    content_type = request.headers.get("Content-Type", "").lower()
    if content_type.startswith("multipart/form-data"):
        return await write_form(request, location)
    if content_type.startswith(RAW_TYPE):
        return await write_raw(request, location)
    return await write_json(request, location)


async def delete_file(request: web.Request) -> web.Response:
    """Delete a file, a link or a directory."""
    location = _location(request)
    directory = await request.app[FILES].delete(
        location,
        recursive=query.flag(request, "recursive"),
        force=query.flag(request, "force"),
        condition=wanted_condition(request),
    )
    return json_reply(PathReply(path=printable(location.shown), message=DELETED[directory]))


def _location(request: web.Request) -> Location:
    return request.app[FILES].resolve(client_path(request, PREFIX))


def _wants_bytes(request: web.Request) -> bool:
    """Whether the bytes form is asked for: substring tests, as in spec/filesystem.md 4.3."""
    if query.flag(request, "download"):
        return True
    accept = request.headers.get("Accept", "")
    if "application/octet-stream" in accept or wants_tar(request):
        return True
    return accept != "" and "application/json" not in accept and "*/*" not in accept


ROUTES = (
    web.get(PATTERN, read_file, allow_head=False),
    web.head(PATTERN, head_file),
    web.put(PATTERN, write_file),
    web.delete(PATTERN, delete_file),
)
