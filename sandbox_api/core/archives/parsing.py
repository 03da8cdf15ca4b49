"""A tar archive that arrives in pieces of any size (POSIX.1 pax, ustar and GNU formats).

`tarfile` reads from a file and waits for it, which would keep a thread for every slow client; so
only its decoding of one header is used.
"""

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sandbox_api.core.paths import printable
from sandbox_api.errors import FailedError

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENSION_BYTES = 1 << 20  # of names and attributes that do not fit into a header

NOT_SUPPORTED = "it is sparse or of a type that is not supported; pack it without --sparse"

_DECIMAL = re.compile(r"(-?)(\d{1,12})(?:\.(\d*))?", re.ASCII)
_WHOLE = re.compile("[0-9]{1,18}", re.ASCII)
_EXTENSIONS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
    | {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


_MEMBERS = frozenset(tarfile.SUPPORTED_TYPES) - _EXTENSIONS - {tarfile.GNUTYPE_SPARSE}


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: as it is written there; bytes that are not UTF-8 are surrogate escapes.
        kind: the type of the header; one of `tarfile`'s.
        mode: permission bits.
        size: bytes of content that follow.
        mtime_ns: nanoseconds since the epoch.
        target: what a link leads to.
    """

    name: str
    kind: bytes
    mode: int
    size: int
    mtime_ns: int
    target: str


class Sink(Protocol):
    """Who takes what is in an archive."""

    def begin(self, member: Member) -> None:
        """A member begins."""

    def content(self, data: memoryview) -> None:
        """The next bytes of the member's content."""

    def end(self) -> None:
        """The member is complete."""


class TarParser:
    """Takes an archive in pieces and hands its members to a sink.

    Args:
        sink: gets each member; its errors pass through.

    Attributes:
        ended: whether the archive's own end was seen; what comes after it does not count.
    """

    def __init__(self, sink: Sink) -> None:
        self.ended = False
        self._sink = sink
        self._block = bytearray()
        self._left = 0  # bytes of content that are still to come
        self._padding = 0
        self._take: Callable[[memoryview], None] = sink.content
        self._complete: Callable[[], None] = sink.end
        self._extension = bytearray()
        self._attributes: dict[str, str] = {}

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            FailedError: it is no tar archive, or holds what is not supported.
        """
        rest = memoryview(data)
        while rest and not self.ended:
            if self._left:
                rest = self._feed_content(rest)
            elif self._padding:
                skipped = min(self._padding, len(rest))
                self._padding -= skipped
                rest = rest[skipped:]
            else:
                missing = BLOCK - len(self._block)
                self._block += rest[:missing]
                rest = rest[missing:]
                if len(self._block) == BLOCK:
                    self._take_header(bytes(self._block))
                    self._block.clear()

    def close(self) -> None:
        """There is no more.

        Raises:
            FailedError: the archive was cut off.
        """
        if not self.ended:
            raise FailedError("unexpected EOF: the archive is cut off")

    def _feed_content(self, rest: memoryview) -> memoryview:
        count = min(self._left, len(rest))
        self._take(rest[:count])
        self._left -= count
        if not self._left:
            self._complete()
        return rest[count:]

    def _take_header(self, block: bytes) -> None:
        if not any(block):
            self.ended = True
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as exc:
            raise FailedError(
                f"this is no tar archive, or a damaged one ({exc}); a compressed one needs "
                "Content-Encoding: gzip"
            ) from None
        if header.type in _EXTENSIONS:
            self._begin_extension(header)
        else:
            self._begin_member(header)
        self._padding = -self._left % BLOCK

    def _begin_extension(self, header: tarfile.TarInfo) -> None:
        if not 0 < header.size <= MAX_EXTENSION_BYTES:
            raise FailedError(f"an extended header has {header.size} bytes")
        self._extension.clear()
        self._left = header.size
        self._take = self._extension.extend
        kind = header.type
        self._complete = lambda: self._end_extension(kind)

    def _end_extension(self, kind: bytes) -> None:
        data = bytes(self._extension)
        if kind == tarfile.GNUTYPE_LONGNAME:
            self._attributes["path"] = _text(data.partition(b"\0")[0])
        elif kind == tarfile.GNUTYPE_LONGLINK:
            self._attributes["linkpath"] = _text(data.partition(b"\0")[0])
        elif kind != tarfile.XGLTYPE:  # what is said of all members is nothing that counts here
            self._attributes.update(parse_records(data))

    def _begin_member(self, header: tarfile.TarInfo) -> None:
        attributes, self._attributes = self._attributes, {}
        if header.type not in _MEMBERS or any(map(_is_sparse, attributes)):
            raise FailedError(f"{printable(header.name)}: {NOT_SUPPORTED}")
        size = _size(attributes.get("size", str(header.size))) if header.isreg() else 0
        member = Member(
            attributes.get("path", header.name),
            header.type,
            header.mode,
            size,
            parse_time(attributes.get("mtime", str(header.mtime))),
            attributes.get("linkpath", header.linkname),
        )
        self._sink.begin(member)
        self._left = size
        self._take, self._complete = self._sink.content, self._sink.end
        if not size:
            self._complete()


def parse_records(data: bytes) -> dict[str, str]:
    """The attributes of a pax extended header: `LENGTH KEY=VALUE\\n`, one after the other.

    Raises:
        FailedError: they are not what they should be.
    """
    found: dict[str, str] = {}
    while data:
        length, separator, _ = data[:20].partition(b" ")
        if not separator or not length.isdigit() or not len(length) < int(length) <= len(data):
            raise FailedError("an extended header is malformed")
        record = data[len(length) + 1 : int(length)]
        key, equals, value = record.partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise FailedError("an extended header is malformed")
        found[_text(key)] = _text(value[:-1])
        data = data[int(length) :]
    return found


def parse_time(text: str) -> int:
    """Decimal seconds as nanoseconds.

    Raises:
        FailedError: it is no number.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise FailedError(f"'{text:.40}' is no time")
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * 1_000_000_000 + int(f"{fraction or '':0<9.9}")
    return -nanoseconds if sign else nanoseconds


def _is_sparse(key: str) -> bool:
    return key.startswith("GNU.sparse.")


def _size(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise FailedError(f"'{text:.40}' is no size")
    return int(text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
