"""An open file as the bytes of a reply: validators, conditions, one range, sendfile.

The file is sent from its descriptor: it was opened by a file thread, as the workload user, and it
stays the same file whatever happens to its name.
"""

import asyncio
import os
import posixpath
import re
from contextlib import closing
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import quote

from aiohttp import web
from aiohttp.helpers import ETag

from sandbox_api.core.conditions import file_version
from sandbox_api.core.regular import OpenedFile
from sandbox_api.errors import PreconditionError, RangeError

SENDFILE_BYTES = 4 << 20  # a fast reader must not keep the event loop in one system call

DEFAULT_TYPE = "application/octet-stream"
CONTENT_TYPES = {
    ".txt": "text/plain",
    ".log": "text/plain",
    ".html": "text/html",
    ".htm": "text/html",
    ".css": "text/css",
    ".js": "application/javascript",
    ".json": "application/json",
    ".xml": "application/xml",
    ".pdf": "application/pdf",
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".gz": "application/gzip",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
}

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII)
_UNSAFE_IN_QUOTES = re.compile(r"[^ !#-\[\]-~]")
_LAST_SECOND = 253_402_300_799  # of the year 9999, the last that HTTP can tell


async def send_file(request: web.Request, opened: OpenedFile) -> web.StreamResponse:
    """Reply with a file's bytes, or to HEAD with what describes them; closes the file.

    Raises:
        PreconditionError: If-Match or If-Unmodified-Since does not hold.
        RangeError: the file does not have the range.
    """
    with closing(opened.file):
        headers = _describe(opened)
        if opened.content is not None:  # a pseudo file: no length, no version, no ranges
            return web.Response(body=opened.content, headers=headers)
        version = _Version(opened)
        headers.update(version.headers)
        version.check_still(request)
        if version.is_known(request):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return await _send(request, opened, headers, version.wanted_range(request))


async def _send(
    request: web.Request, opened: OpenedFile, headers: dict[str, str], wanted: range | None
) -> web.StreamResponse:
    size = opened.status.st_size
    response = web.StreamResponse(headers=headers)
    response.headers["Accept-Ranges"] = "bytes"
    if wanted is None:
        wanted = range(size)
    else:
        response.set_status(HTTPStatus.PARTIAL_CONTENT)
        response.headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    response.content_length = len(wanted)
    await response.prepare(request)
    if request.method != "HEAD":
        await _send_bytes(request, opened, wanted)
    await response.write_eof()
    return response


async def _send_bytes(request: web.Request, opened: OpenedFile, wanted: range) -> None:
    loop = asyncio.get_running_loop()
    position = wanted.start
    while position < wanted.stop:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        count = min(SENDFILE_BYTES, wanted.stop - position)
        sent = await loop.sendfile(transport, opened.file, position, count)
        if sent == 0:
            raise EOFError(f"{opened.name} became shorter while it was sent")
        position += sent
        request.writer.output_size += sent


class _Version:
    """What tells one state of a file from another (RFC 9110 section 8.8)."""

    def __init__(self, opened: OpenedFile) -> None:
        status = opened.status
        self._size = status.st_size
        self._seconds = max(0, min(status.st_mtime_ns // 1_000_000_000, _LAST_SECOND))
        self._etag = file_version(status)
        self._last_modified = formatdate(self._seconds, usegmt=True)
        self.headers = {"ETag": etag(status), "Last-Modified": self._last_modified}

    def check_still(self, request: web.Request) -> None:
        """If-Match, else If-Unmodified-Since (RFC 9110 section 13.2.2)."""
        if (tags := request.if_match) is not None:
            holds = any(tag.value == "*" or tag == ETag(self._etag) for tag in tags)
        else:
            since = request.if_unmodified_since
            holds = since is None or self._seconds <= since.timestamp()
        if not holds:
            raise PreconditionError(
                f"the file is not the one that was asked for: its ETag is {self.headers['ETag']}, "
                f"it was modified {self._last_modified}"
            )

    def is_known(self, request: web.Request) -> bool:
        """If-None-Match, else If-Modified-Since."""
        if (tags := request.if_none_match) is not None:
            return any(tag.value in {"*", self._etag} for tag in tags)
        since = request.if_modified_since
        return since is not None and self._seconds <= since.timestamp()

    def wanted_range(self, request: web.Request) -> range | None:
        """The range to send; None for the whole file.

        Raises:
            RangeError: the file does not have it, or it is malformed.
        """
        text = request.headers.get("Range")
        if text is None or not self._size or request.method == "HEAD" or "," in text:
            return None
        if request.headers.get("If-Range", self._last_modified) not in self.headers.values():
            return None
        return parse_range(text, self._size)


def etag(status: os.stat_result) -> str:
    """The ETag of a regular file."""
    return f'"{file_version(status)}"'


def parse_range(text: str, size: int) -> range:
    """One range of bytes (RFC 9110 section 14.1.2).

    Args:
        text: a Range header.
        size: bytes of the file, over 0.

    Raises:
        RangeError: `invalid range…`.
    """
    match = _RANGE.fullmatch(text)
    first, last = match.groups() if match else ("", "")
    if not first and not last:
        raise _bad_range(f"invalid range '{text:.100}': bytes=first-last is expected", size)
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            raise _bad_range(f"invalid range '{text}': it ends before it begins", size)
    if start >= size:
        raise _bad_range(f"invalid range: failed to overlap (the file has {size} bytes)", size)
    return range(start, stop)


def _bad_range(message: str, size: int) -> RangeError:
    return RangeError(message, {"size": size})


def _describe(opened: OpenedFile) -> dict[str, str]:
    return {
        "Content-Type": content_type(opened.name),
        "Content-Disposition": content_disposition(opened.name),
    }


def content_type(name: str) -> str:
    """The type by the last extension, case-sensitive, without a charset."""
    return CONTENT_TYPES.get(posixpath.splitext(f"x{name}")[1], DEFAULT_TYPE)


def content_disposition(name: str) -> str:
    """`attachment` with the name; `filename*` where quotes cannot hold it (RFC 6266)."""
    plain = _UNSAFE_IN_QUOTES.sub("_", name)
    header = f'attachment; filename="{plain}"'
    if plain == name:
        return header
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f"{header}; filename*=UTF-8''{quote(text, safe='')}"
