"""The bodies of PUT /filesystem: JSON, form, raw bytes, and raw bytes in several requests."""

import os
import re
import stat

from aiohttp import web

from sandbox_api.api import query
from sandbox_api.api.conditions import wanted_condition
from sandbox_api.api.download import etag
from sandbox_api.api.forms import Part, read_form
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.files import UploadProgressReply, WriteFileRequest
from sandbox_api.api.wire import FILES, RESUMING, json_reply, read_json
from sandbox_api.core.paths import Location, parse_mode, printable
from sandbox_api.core.refusals import attempt
from sandbox_api.core.uploads import Span
from sandbox_api.core.writer import PieceWriter
from sandbox_api.errors import InvalidError

MAX_MODE_BYTES = 64
READ_BYTES = 2 << 20
RAW_TYPE = "application/octet-stream"

WRITTEN = "File created/updated successfully"
MADE = "Directory created successfully"
UPLOADED = "Binary file uploaded successfully"
NOT_UPLOADED = "error writing binary file"

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})", re.ASCII)


async def write_json(request: web.Request, location: Location) -> web.Response:
    """Write a text, or make a directory."""
    _refuse_range(request)
    files, condition = request.app[FILES], wanted_condition(request)
    body = await read_json(
        request, WriteFileRequest, f"send the bytes as they are, with Content-Type: {RAW_TYPE}"
    )
    mode = parse_mode(body.permissions)
    if body.is_directory:
        await files.make_directory(location, mode, condition=condition)
        return _reply(location, MADE)
    status = await files.write(
        location,
        body.content.encode(),
        mode,
        sync=query.flag(request, "sync"),
        condition=condition,
    )
    return _reply(location, WRITTEN, status)


async def write_form(request: web.Request, location: Location) -> web.Response:
    """Write the first part `file`; `permissions` counts wherever it stands, the rest does not."""
    _refuse_range(request)
    chosen: Part | None = None
    permissions = b""
    writer = request.app[FILES].writer(
        location, sync=query.flag(request, "sync"), condition=wanted_condition(request)
    )
    with attempt(NOT_UPLOADED):
        async with writer:
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
            mode = parse_mode(permissions.decode("utf-8", "replace").strip())
            status = await writer.commit(mode)
    return _reply(location, UPLOADED, status)


async def write_raw(request: web.Request, location: Location) -> web.Response:
    """Write the body as it is, or the bytes of the file that it carries."""
    mode = parse_mode(request.query.get("permissions"))
    if "Content-Range" in request.headers or "offset" in request.query:
        return await _resume(request, location, mode)
    writer = request.app[FILES].writer(
        location, sync=query.flag(request, "sync"), condition=wanted_condition(request)
    )
    with attempt(NOT_UPLOADED):
        async with writer:
            await _copy_body(request, writer)
            status = await writer.commit(mode)
    return _reply(location, UPLOADED, status)


async def _resume(request: web.Request, location: Location, mode: int | None) -> web.Response:
    """Write what the body carries; the file has its new content once all has come."""
    span = _span(request)
    resuming = request.app[RESUMING]
    with attempt(NOT_UPLOADED):
        if span is None:
            total = int(request.headers["Content-Range"].rpartition("/")[2])
            return _progress(location, await resuming.received(location, total), total)
        writer = await resuming.begin(
            location,
            span,
            sync=query.flag(request, "sync"),
            condition=wanted_condition(request),
        )
        async with writer:
            received = span.start + await _copy_body(request, writer)
            await writer.written()
            if received < span.total:
                return _progress(location, received, span.total)
            status = await writer.commit(mode)
    return _reply(location, UPLOADED, status)


def _span(request: web.Request) -> Span | None:
    """Which bytes the body carries; None when only the progress is asked for.

    Raises:
        InvalidError: they are not said, or not the same as the length of the body.
    """
    length = request.content_length
    if length is None:
        raise InvalidError("a part of a file needs a Content-Length")
    text = request.headers.get("Content-Range")
    if text is None:
        start = query.number(request, "offset", 0)
        return Span(start, start + length, start + length)
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if not match or "offset" in request.query:
        raise InvalidError(
            f"invalid Content-Range '{text:.100}': 'bytes first-last/size' with the size of the "
            "whole file is expected, or 'bytes */size' with an empty body to ask how much has "
            "come; ?offset= cannot stand beside it"
        )
    first, last, total = match.groups()
    if first is None and not length:
        return None
    span = Span(int(first or 0), int(last or 0) + 1, int(total))
    if first is None or span.stop - span.start != length or span.stop > span.total:
        raise InvalidError(
            f"invalid Content-Range '{text:.100}': it does not fit a body of {length} bytes"
        )
    return span


async def _copy_body(request: web.Request, writer: PieceWriter) -> int:
    count = 0
    while piece := await request.content.read(READ_BYTES):
        count += len(piece)
        await writer.write(piece)
    return count


def _refuse_range(request: web.Request) -> None:
    """A part of a file is not the file (RFC 9110 section 14.4)."""
    if "Content-Range" in request.headers:
        raise InvalidError(f"Content-Range is only for bodies with Content-Type: {RAW_TYPE}")


def _reply(location: Location, message: str, status: os.stat_result | None = None) -> web.Response:
    response = json_reply(PathReply(path=printable(location.shown), message=message))
    if status is not None and stat.S_ISREG(status.st_mode):
        response.headers["ETag"] = etag(status)
    return response


def _progress(location: Location, received: int, total: int) -> web.Response:
    reply = UploadProgressReply(
        path=printable(location.shown),
        message=f"{received} of {total} bytes have come; go on at byte {received}",
        offset=received,
        total=total,
    )
    return json_reply(reply, 202)
