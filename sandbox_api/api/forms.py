"""multipart/form-data bodies (RFC 7578, RFC 2046 section 5.1), part by part as they arrive.

aiohttp's reader copies every byte several times; here a piece of a file passes through as it is.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.helpers import parse_mimetype

from sandbox_api.errors import FailedError, InvalidError

READ_BYTES = 2 << 20
MAX_HEADER_BYTES = 16 * 1024
MAX_BOUNDARY_CHARACTERS = 200

_PARAMETER = re.compile(r';\s*([^\s=;]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.ASCII)
_AFTER_BOUNDARY = b" \t\r\n-"
_BAD_PART = "error reading multipart part"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part; two parts are never equal.

    Attributes:
        name: the field's name.
        filename: empty where there is none.
        max_bytes: the most bytes that it can have; 0 where the length of the body is not known.
    """

    name: str
    filename: str
    max_bytes: int = 0


def read_form(request: web.Request) -> AsyncIterator[tuple[Part, bytes]]:
    """The pieces of a form, each with its part; errors as in `FormReader.pieces`.

    Raises:
        InvalidError: the Content-Type names no boundary.
    """
    content_type = parse_mimetype(request.headers.get("Content-Type", ""))
    if (content_type.type, content_type.subtype) != ("multipart", "form-data"):
        raise InvalidError(
            "error reading multipart data: request Content-Type isn't multipart/form-data"
        )
    boundary = content_type.parameters.get("boundary", "")
    if not boundary:
        raise InvalidError(
            "error reading multipart data: no multipart boundary param in Content-Type"
        )
    if len(boundary) > MAX_BOUNDARY_CHARACTERS:
        raise InvalidError(
            "error reading multipart data: the boundary in Content-Type is over "
            f"{MAX_BOUNDARY_CHARACTERS} characters"
        )
    reader = FormReader(
        lambda: request.content.read(READ_BYTES),
        boundary.encode("utf-8", "surrogateescape"),
        request.content_length or 0,
    )
    return reader.pieces()


class FormReader:
    """A form that is read in pieces of any size.

    Args:
        read: the next bytes of the body; empty at its end.
        boundary: as the Content-Type names it.
        length: bytes of the body; 0 where that is not known.
    """

    def __init__(
        self, read: Callable[[], Awaitable[bytes]], boundary: bytes, length: int = 0
    ) -> None:
        self._read = read
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that the first boundary is like the others
        self._unread = length

    async def pieces(self) -> AsyncIterator[tuple[Part, bytes]]:
        """The pieces of all parts in order; a part begins with an empty piece.

        Raises:
            FailedError: `unexpected EOF`, within a part.
            InvalidError: it is no form, or ends between parts.
        """
        async for _ in self._content(_ended_between_parts):
            pass  # the preamble
        while await self._take_boundary():
            part = await self._take_headers()
            yield part, b""
            async for piece in self._content(_ended_within_part):
                yield part, piece
        while await self._read():
            pass  # the epilogue

    async def _content(self, ended: Callable[[], Exception]) -> AsyncIterator[bytes]:
        """What comes before the next delimiter, which is taken as well."""
        while True:
            end, found = self._find_delimiter()
            if end:
                yield self._buffer[:end]
            if found:
                self._buffer = self._buffer[end + len(self._delimiter) :]
                return
            self._buffer = self._buffer[end:]
            await self._fill(ended)

    def _find_delimiter(self) -> tuple[int, bool]:
        """Where the delimiter begins, or may begin once more is known; and whether it does."""
        buffer, delimiter = self._buffer, self._delimiter
        start = buffer.find(delimiter)
        while start >= 0:
            after = start + len(delimiter)
            if after == len(buffer):
                return start, False
            if buffer[after] in _AFTER_BOUNDARY:
                return start, True
            start = buffer.find(delimiter, start + 1)  # a longer word that only begins so
        possible = buffer.rfind(b"\r", -len(delimiter))
        if possible >= 0 and delimiter.startswith(buffer[possible:]):
            return possible, False
        return len(buffer), False

    async def _take_boundary(self) -> bool:
        """The rest of a boundary line; False when it was the last."""
        while len(self._buffer) < len(b"--"):
            await self._fill(_ended_between_parts)
        if self._buffer.startswith(b"--"):
            self._buffer = b""
            return False
        line = await self._take_until(b"\r\n")
        if line.strip(b" \t"):
            raise InvalidError(f"{_BAD_PART}: malformed boundary line")
        return True

    async def _take_headers(self) -> Part:
        # the end of the boundary line counts: a part may have no header at all
        self._buffer = b"\r\n" + self._buffer
        name, filename = _parse_part(await self._take_until(b"\r\n\r\n"))
        end = len(self._delimiter) + len(b"--")
        return Part(name, filename, max(0, len(self._buffer) + self._unread - end))

    async def _take_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise InvalidError(f"{_BAD_PART}: its head is over {MAX_HEADER_BYTES} bytes")
            await self._fill(_ended_between_parts)
        taken, _, self._buffer = self._buffer.partition(end)
        return taken

    async def _fill(self, ended: Callable[[], Exception]) -> None:
        data = await self._read()
        if not data:
            raise ended()
        self._buffer += data
        self._unread = max(0, self._unread - len(data))


def _ended_between_parts() -> Exception:
    return InvalidError(f"{_BAD_PART}: multipart: NextPart: EOF")


def _ended_within_part() -> Exception:
    return FailedError("unexpected EOF")


def _parse_part(head: bytes) -> tuple[str, str]:
    """Field and file name; a part that names no field has the empty name."""
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            found = _PARAMETER.findall(value)
            parameters = {key.lower(): _unquote(text) for key, text in found}
            filename = parameters.get("filename") or parameters.get("filename*", "")
            return parameters.get("name", ""), filename
    return "", ""


def _unquote(text: str) -> str:
    text = text.strip()
    if text.startswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
