"""Archives taken apart as they arrive: every format, every way they are cut, every damage."""

import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.archives.parsing import Member, TarParser, parse_records, parse_time
from sandbox_api.errors import FailedError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "/".join(["directory with a long name"] * 12)


class Taken:
    """A sink that keeps all it gets."""

    def __init__(self) -> None:
        self.members: list[tuple[Member, bytes]] = []
        self.ends = 0

    def begin(self, member: Member) -> None:
        assert self.ends == len(self.members)
        self.members.append((member, b""))

    def content(self, data: memoryview) -> None:
        member, before = self.members.pop()
        self.members.append((member, before + bytes(data)))

    def end(self) -> None:
        self.ends += 1


def pack(tar_format: int, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tar_format) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def parse(*pieces: bytes) -> Taken:
    taken = Taken()
    parser = TarParser(taken)
    for piece in pieces:
        parser.feed(piece)
    parser.close()
    return taken


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    yield data[start:]


@pytest.mark.parametrize("tar_format", FORMATS)
@given(sizes=st.lists(st.integers(0, 3000)), length=st.integers(0, 2000))
def test_members_come_whole_however_they_are_cut(
    tar_format: int, sizes: list[int], length: int
) -> None:
    """Names, kinds, modes and content do not depend on the pieces in which they arrive."""
    content = bytes(n % 251 for n in range(length))
    data = pack(
        tar_format,
        (info("d/", tarfile.DIRTYPE, mode=0o750), b""),
        (info("d/file", mode=0o640, mtime=1234567890), content),
        (info("link", tarfile.SYMTYPE, linkname="d/file"), b""),
        (info("hard", tarfile.LNKTYPE, linkname="d/file"), b""),
        (info("empty"), b""),
        (info("last"), b"x"),
    )
    taken = parse(*cut(data, sizes))
    found = [(m.name, m.kind, m.target, content) for m, content in taken.members]
    assert found == [
        ("d", b"5", "", b""),
        ("d/file", b"0", "", content),
        ("link", b"2", "d/file", b""),
        ("hard", b"1", "d/file", b""),
        ("empty", b"0", "", b""),
        ("last", b"0", "", b"x"),
    ]
    assert taken.ends == 6
    member = taken.members[1][0]
    assert (member.mode, member.mtime_ns, member.size) == (0o640, 1234567890 * 10**9, length)


@pytest.mark.parametrize("tar_format", FORMATS[1:])
def test_names_of_any_length_and_bytes(tar_format: int) -> None:
    """GNU and pax say them in their own ways."""
    names = [LONG, '\udcff\n"é', "x" * 255]
    data = pack(tar_format, *((info(name), b"") for name in names))
    assert [member.name for member, _ in parse(data).members] == names
    data = pack(tar_format, (info("l", tarfile.SYMTYPE, linkname=LONG), b""))
    assert parse(data).members[0][0].target == LONG


def test_ustar_prefix() -> None:
    """A name of two halves is put together."""
    data = pack(tarfile.USTAR_FORMAT, (info(LONG[:200]), b""))
    assert parse(data).members[0][0].name == LONG[:200]


def test_pax_attributes_count_for_one_member() -> None:
    """Times to the nanosecond; what is said of one member is forgotten at the next."""
    data = pack(
        tarfile.PAX_FORMAT,
        (info("a", pax_headers={"mtime": "12.000000345", "comment": "é" * 600}), b""),
        (info("b", mtime=7), b""),
    )
    assert [m.mtime_ns for m, _ in parse(data).members] == [12_000_000_345, 7_000_000_000]


def test_what_comes_after_the_end_does_not_count() -> None:
    """Padding, or anything else."""
    data = pack(tarfile.GNU_FORMAT, (info("a"), b"x")) + b"garbage" * 100
    assert len(parse(data).members) == 1


@pytest.mark.parametrize("length", [0, 100, 512, 600, 1024])
def test_a_cut_archive_is_told(length: int) -> None:
    """In a header, in content, and between members: the end is missing."""
    data = pack(tarfile.GNU_FORMAT, (info("a"), b"x" * 300))
    with pytest.raises(FailedError, match="unexpected EOF"):
        parse(data[:length])


def damaged(offset: int, value: bytes, *, checksum: bool = True) -> bytes:
    """A header in which some bytes are others."""
    header = bytearray(pack(tarfile.GNU_FORMAT, (info("a"), b""))[:512])
    header[offset : offset + len(value)] = value
    if checksum:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"no tar at all" * 100, "no tar archive.*gzip"),
        (damaged(0, b"b", checksum=False), "no tar archive"),
        (damaged(124, b"not a size"), "no tar archive"),
        (damaged(124, b"\xff" * 12), "'-1' is no size"),
        (damaged(136, b"\x80" + b"\x7f" * 11), "is no time"),
        (damaged(156, b"S"), "sparse"),
        (damaged(156, b"M"), "not supported"),
        (damaged(156, b"L") + bytes(512), "extended header has 0 bytes"),
        (damaged(156, b"x" + bytes(100)) + bytes(512), "extended header has 0 bytes"),
    ],
)
def test_damaged_headers(data: bytes, text: str) -> None:
    """A clear reason, never a crash, never a member."""
    taken = Taken()
    with pytest.raises(FailedError, match=text):
        TarParser(taken).feed(data)
    assert taken.members == []


def test_extended_headers_are_bounded() -> None:
    """A name of a gigabyte is not collected."""
    huge = info("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    huge.size = 1 << 30
    with pytest.raises(FailedError, match="extended header has 1073741824 bytes"):
        TarParser(Taken()).feed(huge.tobuf(tarfile.GNU_FORMAT))


def test_pax_sparse_is_refused() -> None:
    """Its content would be written as something else."""
    data = pack(tarfile.PAX_FORMAT, (info("a", pax_headers={"GNU.sparse.major": "1"}), b"x"))
    with pytest.raises(FailedError, match="--sparse"):
        parse(data)


@pytest.mark.parametrize(
    "data", [b"x", b"5 a=b\n", b"99 a=b\n", b"6 ab=\n6", b"0 a=b\n", b"6 abc\n", b"-1 a=b\n"]
)
def test_malformed_records(data: bytes) -> None:
    """Lengths that lie."""
    with pytest.raises(FailedError, match="malformed"):
        parse_records(data)


@given(offset=st.integers(0, 500), value=st.binary(max_size=12), rest=st.binary(max_size=1200))
def test_any_header_is_taken_or_refused(offset: int, value: bytes, rest: bytes) -> None:
    """Whatever a header says, with a checksum that is right: a member, or a clear reason."""
    reason = ""
    try:
        parse(damaged(offset, value) + rest, bytes(2048))
        taken = True
    except FailedError as exc:
        taken, reason = False, exc.message
    assert taken != bool(reason)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1.5", 1_500_000_000), ("-1.5", -1_500_000_000), ("3.1234567899", 3_123_456_789)],
)
def test_times(text: str, expected: int) -> None:
    """Decimal seconds, to the nanosecond."""
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1e9", "1" * 40, "\u0663"])
def test_times_that_are_none(text: str) -> None:
    """Not everything that Python reads as a number."""
    with pytest.raises(FailedError, match="is no time"):
        parse_time(text)
