"""Segments of a linked program: replaced, and added where the link has left room for them."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

# Where runtime/*.c looks for them: beyond the program, and low enough for every kernel's addresses.
BUNDLE_ADDRESS = 0x4000_0000
HEAP_ADDRESS = 0x8000_0000

_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian; elf(5)
_SECTIONS_AT = 0x28  # e_shoff
_SECTION_COUNTS_AT = 0x3C  # e_shnum, e_shstrndx
_HEADER = struct.Struct("<IIQQQQQQ")
_LOAD, _NOTE = 1, 4
READ, WRITE = 4, 2


@dataclass(frozen=True)
class Segment:
    """What is to lie in memory when the program starts.

    Args:
        address: of its first byte.
        data: all of it.
        flags: READ or READ | WRITE.
    """

    address: int
    data: bytes
    flags: int


@dataclass(frozen=True)
class _Header:
    """A program header, as in the file."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int

    @property
    def is_writable(self) -> bool:
        return self.type == _LOAD and bool(self.flags & WRITE)

    def pack(self) -> bytes:
        return _HEADER.pack(
            *(self.type, self.flags, self.offset, self.address, self.physical),
            *(self.file_size, self.memory_size, self.alignment),
        )


def with_segments(program: bytes, segments: Iterable[Segment]) -> bytes:
    """The program with these segments.

    A segment that begins where a writable one of the program does takes its place; any other takes
    one of the notes that runtime/main.c has for it. Sections, which only debuggers look at, go.

    Args:
        program: a static executable, as it was linked.
        segments: what to put in.

    Raises:
        ValueError: it is no such executable, or has too few notes.
    """
    headers = list(_headers(program))
    wanted = sorted(segments, key=lambda one: one.address)
    replaced = {one.address for one in wanted} & {one.address for one in headers if one.is_writable}
    content = bytearray(program[: _read_only_size(program, headers, replaced)])
    alignment = max(one.alignment for one in headers if one.type == _LOAD)
    for segment in wanted:
        place = _place(headers, segment.address)
        content += bytes((segment.address - len(content)) % alignment)
        headers[place] = _Header(
            *(_LOAD, segment.flags, len(content), segment.address, segment.address),
            *(len(segment.data), len(segment.data), alignment),
        )
        content += segment.data
    _write_headers(content, [_moved(one, headers) for one in headers])
    return bytes(content)


def _read_only_size(program: bytes, headers: list[_Header], replaced: set[int]) -> int:
    """Writable segments come last: where they are replaced, their old bytes are dropped."""
    if not replaced:
        return len(program)
    writable = [one for one in headers if one.is_writable]
    if {one.address for one in writable} != replaced:
        raise ValueError("all writable segments are replaced, or none")
    return min(one.offset for one in writable)


def _place(headers: list[_Header], address: int) -> int:
    for number, one in enumerate(headers):
        if one.is_writable and one.address == address:
            return number
    for number, one in enumerate(headers):
        if one.type == _NOTE:
            return number
    raise ValueError("the program has no note left whose header could be taken")


def _moved(header: _Header, headers: list[_Header]) -> _Header:
    """A header of a part of a segment, such as the thread-local data, follows the segment."""
    for one in headers:
        within = header.address - one.address
        if one.is_writable and header.type != _LOAD and 0 <= within < one.file_size:
            return replace(header, offset=one.offset + within)
    return header


def _headers(program: bytes) -> Iterator[_Header]:
    if not program.startswith(_IDENTITY):
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", program, 0x20)
    size, count = struct.unpack_from("<HH", program, 0x36)
    for number in range(count):
        yield _Header(*_HEADER.unpack_from(program, table + number * size))


def _write_headers(content: bytearray, headers: list[_Header]) -> None:
    (table,) = struct.unpack_from("<Q", content, 0x20)
    packed = b"".join(one.pack() for one in headers)
    content[table : table + len(packed)] = packed
    struct.pack_into("<Q", content, _SECTIONS_AT, 0)
    struct.pack_into("<HH", content, _SECTION_COUNTS_AT, 0, 0)
