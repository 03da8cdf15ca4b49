"""Directories over HTTP as tar streams, compressed where the client says so."""

from contextlib import aclosing

from aiohttp import web

from sandbox_api.api import query
from sandbox_api.api.conditions import wanted_condition
from sandbox_api.api.download import content_disposition
from sandbox_api.api.schemas.archives import UnpackReply
from sandbox_api.api.wire import ARCHIVES, json_reply
from sandbox_api.core.paths import Location, printable
from sandbox_api.errors import InvalidError

TAR = "application/x-tar"
READ_BYTES = 2 << 20

UNPACKED = "Archive unpacked successfully"


def wants_tar(request: web.Request) -> bool:
    """Whether a directory is to come as an archive."""
    return TAR in request.headers.get("Accept", "")


def is_tar(request: web.Request) -> bool:
    """Whether the body is an archive."""
    return request.headers.get("Content-Type", "").lower().startswith(TAR)


async def send_tar(request: web.Request, location: Location) -> web.StreamResponse:
    """Reply with a directory as an archive, or to HEAD with what describes it.

    Args:
        request: the request.
        location: a directory that can be listed.
    """
    compressed = _takes_gzip(request)
    response = web.StreamResponse(
        headers={
            "Content-Type": TAR,
            "Content-Disposition": content_disposition(f"{location.name.strip('/') or 'root'}.tar"),
            "Vary": "Accept, Accept-Encoding",
        }
    )
    if compressed:
        response.headers["Content-Encoding"] = "gzip"
    await response.prepare(request)
    if request.method != "HEAD":
        pieces = request.app[ARCHIVES].pack(location, compressed=compressed)
        async with aclosing(pieces):
            async for piece in pieces:
                await response.write(piece)
    await response.write_eof()
    return response


async def receive_tar(request: web.Request, location: Location) -> web.Response:
    """Unpack the body into a directory.

    Raises:
        InvalidError: it is compressed by something else than gzip.
        FailedError: as in `Archives.unpack` and `Receiver.feed`.
        PreconditionError: as in `Archives.unpack`.
    """
    archive = request.app[ARCHIVES].unpack(
        location,
        compressed=_is_gzip(request),
        sync=query.flag(request, "sync"),
        condition=wanted_condition(request),
    )
    async with archive as receiver:
        while data := await request.content.read(READ_BYTES):
            await receiver.feed(data)
        unpacked = await receiver.finish()
    return json_reply(
        UnpackReply(path=printable(location.shown), message=UNPACKED, **unpacked._asdict())
    )


def _takes_gzip(request: web.Request) -> bool:
    """Whether Accept-Encoding names gzip with a weight above 0 (RFC 9110 section 12.5.3)."""
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";q=")
        if coding in {"gzip", "x-gzip"}:
            return weight.strip("0.") != "" or weight == ""
    return False


def _is_gzip(request: web.Request) -> bool:
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in {"gzip", "x-gzip", "identity", ""}:
        raise InvalidError(f"Content-Encoding '{coding:.40}' is not known here: use gzip or none")
    return coding in {"gzip", "x-gzip"}
