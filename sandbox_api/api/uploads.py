"""Multipart sessions: large files in parts that come in any order (spec/filesystem.md 8)."""

import re
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from sandbox_api.api.conditions import wanted_condition
from sandbox_api.api.download import etag
from sandbox_api.api.forms import Part, read_form
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.uploads import (
    CompleteUploadRequest,
    InitiateUploadReply,
    InitiateUploadRequest,
    PartReply,
    PartsReply,
    StoredPartReply,
    UploadReply,
    UploadsReply,
)
from sandbox_api.api.wire import (
    FILES,
    SETTINGS,
    UPLOADS,
    client_path,
    json_reply,
    parse_json,
    read_body,
    read_json,
)
from sandbox_api.core.metadata import raw_path
from sandbox_api.core.paths import parse_mode, printable
from sandbox_api.core.refusals import attempt
from sandbox_api.core.uploads import Session
from sandbox_api.core.uploads.part_writer import PartWriter
from sandbox_api.errors import InvalidError

PREFIX = "/filesystem-multipart"
INITIATE = f"{PREFIX}/initiate"
ONE = PREFIX + "/{uploadId}"

_NUMBER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


async def list_uploads(request: web.Request) -> web.Response:
    """All sessions that are open."""
    sessions = request.app[UPLOADS].sessions()
    return json_reply(
        UploadsReply(
            uploads=[UploadReply.model_validate(_described(session)) for session in sessions]
        )
    )


async def initiate_upload(request: web.Request) -> web.Response:
    """Open a session for a file."""
    location = request.app[FILES].resolve(client_path(request, INITIATE))
    session = await request.app[UPLOADS].initiate(location, await _mode(request))
    return json_reply(InitiateUploadReply.model_validate(_described(session)))


async def upload_part(request: web.Request) -> web.Response:
    """Take one part, as the field `file` of a form."""
    number = _part_number(request)
    chosen: Part | None = None
    writer: PartWriter | None = None
    with attempt("failed to upload part: failed to write part"):
        async with AsyncExitStack() as stack:
            async for part, piece in read_form(request):
                if part.name == "file" and writer is None:
                    chosen = part
                    writer = await request.app[UPLOADS].begin_part(
                        _id(request), number, part.max_bytes
                    )
                    await stack.enter_async_context(writer)
                if part is chosen and writer is not None:
                    await writer.write(piece)
            if writer is None:
                raise InvalidError("missing 'file' field in multipart form (curl -F file=@name)")
            stored = await writer.commit()
    return json_reply(PartReply.model_validate(stored))


async def list_parts(request: web.Request) -> web.Response:
    """The parts of a session that have arrived."""
    session = request.app[UPLOADS].get(_id(request))
    parts = [StoredPartReply.model_validate(part) for part in session.sorted_parts()]
    return json_reply(PartsReply(upload_id=session.id, parts=parts))


async def complete_upload(request: web.Request) -> web.Response:
    """Let the file have the content of the parts."""
    body = await read_json(request, CompleteUploadRequest)
    wanted = [(part.part_number, part.etag) for part in body.parts]
    session, status = await request.app[UPLOADS].complete(
        _id(request), wanted, wanted_condition(request)
    )
    response = json_reply(
        PathReply(path=printable(session.path), message="Multipart upload completed successfully")
    )
    response.headers["ETag"] = etag(status)
    return response


async def abort_upload(request: web.Request) -> web.Response:
    """Forget a session and its parts."""
    await request.app[UPLOADS].abort(_id(request))
    return json_reply(PathReply(path="", message="Multipart upload aborted successfully"))


async def _mode(request: web.Request) -> int | None:
    """The mode in the body; a body that says nothing is ignored, as is one that is no JSON."""
    body = await read_body(request, request.app[SETTINGS].max_json_bytes, "send less")
    asked = InitiateUploadRequest()
    with suppress(InvalidError):
        asked = parse_json(body, InitiateUploadRequest)
    try:
        return parse_mode(asked.permissions)
    except InvalidError as exc:
        raise InvalidError(
            exc.message.replace("permissions format ", "permissions format: ", 1)
        ) from None


def _part_number(request: web.Request) -> int:
    text = request.query.get("partNumber", "")
    if not text:
        raise InvalidError("partNumber is required, as in ?partNumber=1")
    if not _NUMBER.fullmatch(text):
        raise InvalidError(f"invalid partNumber: '{text:.40}' is no whole number")
    return int(text)


def _id(request: web.Request) -> str:
    return request.match_info["uploadId"]


def _described(session: Session) -> dict[str, object]:
    return {
        "upload_id": session.id,
        "path": printable(session.path),
        "raw_path": raw_path(session.path),
        "permissions": session.mode,
        "initiated_at": session.initiated_at_ns,
        "parts": session.parts,
    }


ROUTES = (
    web.get(PREFIX, list_uploads),
    web.post(INITIATE + r"/{path:[\s\S]*}", initiate_upload),
    web.put(f"{ONE}/part", upload_part),
    web.get(f"{ONE}/parts", list_parts),
    web.post(f"{ONE}/complete", complete_upload),
    web.delete(f"{ONE}/abort", abort_upload),
)
