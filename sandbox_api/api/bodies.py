"""Bodies on a connection, decoded by us, so that it is known what comes next.

aiohttp's parser does not tell how much of a chunk is left. Here each body that may be large is fed
to a `Body` instead, which knows how many bytes of data come next with nothing between them: those
can be moved from socket to socket unseen (`relay.py`).
"""

import re
from abc import ABC, abstractmethod
from typing import Any, Final, Protocol

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

FULL_READ_BYTES: Final = 256 << 10  # what asyncio reads at once, if so much is there
MOST_READ_BYTES: Final = 1 << 20  # where chunks are large: a quarter of the steps for the same
LEAST_READ_BYTES: Final = 32 << 10  # where they are small: each takes its time, whatever its size
CHUNKS_IN_A_READ: Final = 128  # so many, between those two
MAX_HEAD_BYTES: Final = 64 << 10  # what is larger is left to aiohttp, with its body
HEADS_AT_ONCE: Final = 16  # the same; each costs a copy of what is behind it
MAX_LINE_BYTES: Final = 16 << 10
MAX_TRAILER_BYTES: Final = 64 << 10
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_NEWLINE: Final = b"\r\n"


class MalformedBodyError(ValueError):
    """The sender does not keep to RFC 9112 section 7.1."""


class Framing(Protocol):
    """Where a body ends, and what of it is data.

    Attributes:
        clear: how many bytes of data come next.
        ended: whether it has ended.
        grain: the mean size in bytes of the pieces in which data came lately.
    """

    clear: int
    ended: bool
    grain: int

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The data in what came, and what comes after the end.

        Raises:
            MalformedBodyError: it cannot be parsed.
        """

    def skip(self, count: int) -> None:
        """So many bytes of what was clear have gone another way."""


class Sized:
    """A body of a length that is known: `Content-Length`."""

    grain = MOST_READ_BYTES

    def __init__(self, size: int) -> None:
        self.clear = size
        self.ended = not size

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing`."""
        body, rest = data[: self.clear], data[self.clear :]
        self.skip(len(body))
        return body, rest

    def skip(self, count: int) -> None:
        """See `Framing`."""
        self.clear -= count
        self.ended = not self.clear


class Chunked:
    """A body in chunks (RFC 9112 section 7.1); extensions and trailers are dropped."""

    def __init__(self) -> None:
        self.clear = 0
        self.ended = False
        self.grain = 0
        self._line = b""  # the beginning of one
        self._take_line = self._begin_chunk
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Framing`."""
        pieces: list[bytes] = []
        start = 0
        while start < len(data) and not self.ended:
            if self.clear:
                piece = data[start : start + self.clear]
                pieces.append(piece)
                start += len(piece)
                self.skip(len(piece))
            else:
                start = self._feed_line(data, start)
                start = self._feed_whole_chunks(data, start, pieces)
        if pieces:
            self.grain = len(data) // len(pieces)
        return b"".join(pieces), data[start:]

    def skip(self, count: int) -> None:
        """See `Framing`."""
        self.clear -= count

    def _feed_whole_chunks(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        """Chunks that are all there, in few steps; whatever else comes is left to `_feed_line`."""
        if self._take_line != self._begin_chunk:
            return start
        while match := _SIZE.match(data, start):
            begin, size = match.end(), int(match[1], 16)
            end = begin + size
            next_start = end + len(_NEWLINE)
            if not size or data[end:next_start] != _NEWLINE or begin - start > MAX_LINE_BYTES:
                break
            pieces.append(data[begin:end])
            start = next_start
        return start

    def _feed_line(self, data: bytes, start: int) -> int:
        """A line or a part of one; where it ends in the data."""
        end = data.find(b"\n", start) + 1 or len(data)
        line = self._line + data[start:end]
        if len(line) > MAX_LINE_BYTES:
            raise MalformedBodyError(f"a line between chunks is over {MAX_LINE_BYTES} bytes")
        if line.endswith(b"\n"):
            self._line = b""
            self._take_line(line)
        else:
            self._line = line
        return end

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise MalformedBodyError(f"invalid size of a chunk: {line[:40]!r}")
        self.clear = int(match[1], 16)
        self._take_line = self._end_chunk if self.clear else self._take_trailer

    def _end_chunk(self, line: bytes) -> None:
        if line != _NEWLINE:
            raise MalformedBodyError(f"a chunk is longer than its size: {line[:40]!r}")
        self._take_line = self._begin_chunk

    def _take_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if not line.endswith(_NEWLINE) or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise MalformedBodyError("invalid trailers")
        self.ended = line == _NEWLINE


class Body:
    """A body that is being received.

    Args:
        framing: of the body.
        content: takes its data.
    """

    def __init__(self, framing: Framing, content: StreamReader) -> None:
        self.content = content
        self._framing = framing

    @property
    def clear(self) -> int:
        """How many bytes of data come next on the connection, with nothing between them."""
        return self._framing.clear

    @property
    def grain(self) -> int:
        """The mean size in bytes of the pieces in which data came lately."""
        return self._framing.grain

    @property
    def ended(self) -> bool:
        """Whether it is complete."""
        return self._framing.ended

    def feed(self, data: bytes) -> bytes:
        """Decode what came; what comes after the end is returned.

        Raises:
            MalformedBodyError: it cannot be decoded.
        """
        body, rest = self._framing.feed(data)
        self.content.feed_data(body)
        return rest

    def skip(self, count: int) -> None:
        """So many bytes of what was clear have gone another way."""
        self._framing.skip(count)


class Receiver(BaseProtocol, ABC):
    """A connection that decodes bodies itself; mixed into aiohttp's protocols of both sides.

    A head is parsed by aiohttp alone. To cut what comes behind heads is harmless: a parser takes
    its bytes in any pieces. So a body is ours only where it is certain where it begins, and
    aiohttp's where not.
    """

    body: Body | None = None

    def receive(self, data: bytes) -> None:
        """Take what came on the connection: heads and bodies in turn."""
        for _ in range(HEADS_AT_ONCE):
            data = self._receive_body(data)
            head = _END_OF_HEAD.search(data, 0, MAX_HEAD_BYTES)
            if head is None:
                break
            self.body = _begin(*self._parse_head(data[: head.end()]))
            data = data[head.end() :]
        if data := self._receive_body(data):
            self._parse_head(data)
        self._limit_read()

    @property
    def clear(self) -> int:
        """How many bytes of data come next on the connection, with nothing between them."""
        return 0 if self.body is None else self.body.clear

    def is_receiving(self, content: StreamReader) -> bool:
        """Whether the body that is being received is this one."""
        lost = self.transport is None
        return not lost and self.body is not None and self.body.content is content

    def hold(self) -> None:
        """Leave the socket to somebody else."""
        self._pause_reading_for_buffer()

    def release(self) -> None:
        """Go on reading."""
        self._resume_reading_for_buffer()

    def skip(self, count: int) -> None:
        """So many bytes of the body have been moved on from the socket."""
        if self.body is not None:
            self.body.skip(count)
            self._end_if_complete(self.body)
            self._limit_read()

    def _limit_read(self) -> None:
        """How much to read next: a read is one turn of the loop, whatever there is to decode."""
        if self.transport is not None:
            size = FULL_READ_BYTES
            if self.body is not None:
                size = max(self.clear, self.body.grain * CHUNKS_IN_A_READ, LEAST_READ_BYTES)
            self.transport.max_size = min(size, MOST_READ_BYTES)  # type: ignore[attr-defined]

    def _receive_body(self, data: bytes) -> bytes:
        """What belongs to no body."""
        body = self.body
        if body is None or not data:
            return data
        try:
            rest = body.feed(data)
        except MalformedBodyError as exc:
            self.body = None
            self._fail_body(body.content, str(exc))
            return b""
        self._end_if_complete(body)
        return rest

    def _end_if_complete(self, body: Body) -> None:
        if body.ended:
            self.body = None
            self._renew_parser()
            body.content.feed_eof()

    @abstractmethod
    def _parse_head(self, data: bytes) -> tuple[Any, StreamReader]:
        """Let aiohttp parse; the message that this completed, and its body, or (None, any)."""

    @abstractmethod
    def _renew_parser(self) -> None:
        """aiohttp's parser still waits for the body: another one takes its place."""

    @abstractmethod
    def _fail_body(self, content: StreamReader, reason: str) -> None:
        """The body is malformed: whoever reads it is told, and the connection ends."""


def _begin(
    message: RawRequestMessage | RawResponseMessage | None, payload: StreamReader
) -> Body | None:
    """The body after a head that was just parsed, unless it has none or an end of its own."""
    fresh = payload is not EMPTY_PAYLOAD and not payload.is_eof() and not payload.total_bytes
    if message is None or not fresh or message.upgrade:
        return None
    if message.chunked:
        return Body(Chunked(), payload)
    length = message.headers.get("Content-Length", "")
    return Body(Sized(int(length)), payload) if length.isdecimal() else None
