"""GET, HEAD, PUT and DELETE of files and directories (spec/filesystem.md 4 to 6)."""

from aiohttp import web

from sandbox_api.api.download import send_file
from sandbox_api.api.forms import Part, read_form
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.files import DirectoryReply, FileContentReply, WriteFileRequest
from sandbox_api.api.wire import FILES, JSON_TYPE, client_path, json_reply, read_json
from sandbox_api.core.directories import Directory
from sandbox_api.core.files import FileContent
from sandbox_api.core.paths import Location, parse_mode, printable
from sandbox_api.core.refusals import attempt
from sandbox_api.errors import InvalidError

PREFIX = "/filesystem"
# `tree` as a whole segment is another resource; names may hold line breaks
PATTERN = PREFIX + r"/{path:(?!tree(?:/|%2F|$))[\s\S]*}"

MAX_MODE_BYTES = 64

WRITTEN = "File created/updated successfully"
MADE = "Directory created successfully"
UPLOADED = "Binary file uploaded successfully"
DELETED = {True: "Directory deleted successfully", False: "File deleted successfully"}


async def read_file(request: web.Request) -> web.StreamResponse:
    """A directory's listing; a file as JSON, or as bytes where the client asks for them."""
    files, location = request.app[FILES], _location(request)
    if not _wants_bytes(request):
        return _json(await files.read(location, _encoding(request)))
    opened = await files.open(location)
    if opened is None:
        return _json(await files.list(location))
    return await send_file(request, opened)


async def head_file(request: web.Request) -> web.StreamResponse:
    """What describes a file's bytes; of a directory only that it is there."""
    opened = await request.app[FILES].open(_location(request))
    if opened is None:
        return web.Response(headers={"Content-Type": JSON_TYPE})
    return await send_file(request, opened)


async def write_file(request: web.Request) -> web.Response:
    """Write a file from JSON or a form, or make a directory."""
    location = _location(request)
    if request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        message = await _write_form(request, location)
    else:
        message = await _write_json(request, location)
    return json_reply(PathReply(path=printable(location.shown), message=message))


async def delete_file(request: web.Request) -> web.Response:
    """Delete a file, a link or a directory."""
    location = _location(request)
    directory = await request.app[FILES].delete(
        location, recursive=_flag(request, "recursive"), force=_flag(request, "force")
    )
    return json_reply(PathReply(path=printable(location.shown), message=DELETED[directory]))


async def _write_json(request: web.Request, location: Location) -> str:
    files = request.app[FILES]
    body = await read_json(
        request, WriteFileRequest, "send it as multipart/form-data, in a field 'file'"
    )
    mode = parse_mode(body.permissions)
    if body.is_directory:
        await files.make_directory(location, mode)
        return MADE
    await files.write(location, body.content.encode(), mode, sync=_flag(request, "sync"))
    return WRITTEN


async def _write_form(request: web.Request, location: Location) -> str:
    """Write the first part `file`; `permissions` counts wherever it stands, the rest does not."""
    chosen: Part | None = None
    permissions = b""
    with attempt("error writing binary file"):
        async with request.app[FILES].writer(location, sync=_flag(request, "sync")) as writer:
            async for part, piece in read_form(request):
                if part.name == "file" and part.filename:
                    chosen = chosen or part
                    if part is chosen:
                        await writer.write(piece)
                elif part.name == "permissions" and len(permissions) < MAX_MODE_BYTES:
                    permissions += piece
            if chosen is None:
                raise InvalidError(
                    "missing 'file' field in multipart form (it needs a file name, as in "
                    "curl -F file=@name)"
                )
            await writer.commit(parse_mode(permissions.decode("utf-8", "replace").strip()))
    return UPLOADED


def _location(request: web.Request) -> Location:
    return request.app[FILES].resolve(client_path(request, PREFIX))


def _wants_bytes(request: web.Request) -> bool:
    """Whether the bytes form is asked for: substring tests, as in spec/filesystem.md 4.3."""
    if _flag(request, "download"):
        return True
    accept = request.headers.get("Accept", "")
    if "application/octet-stream" in accept:
        return True
    return accept != "" and "application/json" not in accept and "*/*" not in accept


def _encoding(request: web.Request) -> str:
    encoding = request.query.get("encoding", "utf-8")
    if encoding not in {"utf-8", "base64"}:
        raise InvalidError(f"invalid encoding '{encoding}': utf-8 or base64 is expected")
    return encoding


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name) == "true"


def _json(found: FileContent | Directory) -> web.Response:
    if isinstance(found, Directory):
        return json_reply(DirectoryReply.model_validate(found))
    return json_reply(FileContentReply.model_validate(found))


ROUTES = (
    web.get(PATTERN, read_file, allow_head=False),
    web.head(PATTERN, head_file),
    web.put(PATTERN, write_file),
    web.delete(PATTERN, delete_file),
)
