"""Forms: any body in any pieces gives the same parts."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.api.forms import MAX_HEADER_BYTES, FormReader
from sandbox_api.errors import FailedError, InvalidError

BOUNDARY = b"b-1"
# content that looks like a boundary is what such parsers get wrong
CONTENT = st.lists(
    st.sampled_from(
        [b"\r\n--b-1x", b"\r\n--b-", b"\r", b"\n", b"--b-1--", b"\r\n", b"\r\r\n--", b"a"]
    )
    | st.binary(max_size=9),
    max_size=8,
).map(b"".join)


async def parts_of(pieces: Iterable[bytes]) -> list[tuple[str, str, bytes]]:
    source = iter(pieces)

    async def read() -> bytes:
        return next((piece for piece in source if piece), b"")

    parts: list[tuple[str, str, bytes]] = []
    current = None
    async for part, piece in FormReader(read, BOUNDARY).pieces():
        if part is not current:
            current = part
            parts.append((part.name, part.filename, b""))
        parts[-1] = (*parts[-1][:2], parts[-1][2] + piece)
    return parts


def body_of(contents: list[bytes], preamble: bytes = b"") -> bytes:
    parts = (
        b'--b-1\r\nContent-Disposition: form-data; name="p%d"\r\n\r\n%b\r\n' % (number, content)
        for number, content in enumerate(contents)
    )
    return preamble + b"".join(parts) + b"--b-1--\r\n"


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def free_of_boundary(content: bytes) -> bool:
    text = b"\r\n" + content + b"\r\n"
    return not any(b"\r\n--b-1" + after in text for after in (b" ", b"\t", b"\r", b"\n", b"-"))


@given(
    st.lists(CONTENT.filter(free_of_boundary), max_size=4),
    st.lists(st.integers(min_value=0), max_size=12),
    st.sampled_from([b"", b"preamble\r\n", b"\r\n"]),
)
async def test_pieces_do_not_matter(
    contents: list[bytes], places: list[int], preamble: bytes
) -> None:
    """However the network cuts a body, each part arrives byte by byte as it was sent."""
    parts = await parts_of(cut(body_of(contents, preamble), places))
    assert parts == [(f"p{number}", "", content) for number, content in enumerate(contents)]


@given(st.binary(max_size=200) | CONTENT, st.lists(st.integers(min_value=0), max_size=5))
async def test_any_body_is_a_form_or_a_refusal(body: bytes, places: list[int]) -> None:
    """No body makes the reader fail in another way, and its pieces do not change the verdict."""
    verdicts = []
    for pieces in ([body], cut(body, places)):
        try:
            verdicts.append(str(await parts_of(pieces)))
        except (InvalidError, FailedError) as exc:
            verdicts.append(exc.message)
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("head", "name", "filename"),
    [
        (b'Content-Disposition: form-data; name="file"; filename="a b.txt"', "file", "a b.txt"),
        (b"content-disposition:form-data;name=file;filename=a.txt", "file", "a.txt"),
        (
            b'Content-Disposition: form-data; filename="name=\\"x\\"; y"; name="file"',
            "file",
            'name="x"; y',
        ),
        (b"Content-Disposition: form-data; name=file; filename*=UTF-8''a", "file", "UTF-8''a"),
        (b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="\xff"', "\ufffd", ""),
        (b"Content-Type: text/plain", "", ""),
        (b"", "", ""),
    ],
)
async def test_heads(head: bytes, name: str, filename: str) -> None:
    """Field and file name are found however a client writes them."""
    head = head + b"\r\n" if head else head
    body = b"--b-1\r\n" + head + b"\r\ncontent\r\n--b-1--"
    assert await parts_of([body]) == [(name, filename, b"content")]


async def test_padding_after_a_boundary() -> None:
    """Blanks after a boundary belong to it (RFC 2046 section 5.1.1)."""
    assert await parts_of([b"--b-1 \t\r\n\r\nx\r\n--b-1  \r\n\r\ny\r\n--b-1--\r\nepilogue"]) == [
        ("", "", b"x"),
        ("", "", b"y"),
    ]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", InvalidError, "error reading multipart part: multipart: NextPart: EOF"),
        (b"no form", InvalidError, "error reading multipart part: multipart: NextPart: EOF"),
        (b"--b-1\r\nContent-", InvalidError, "NextPart: EOF"),
        (b"--b-1\r\n\r\nx\r\n--b-1", FailedError, "unexpected EOF"),
        (b"--b-1\r\n\r\nx", FailedError, "unexpected EOF"),
        (b"--b-1\r\n\r\nx\r\n--b-1-x\r\n", InvalidError, "malformed boundary line"),
        (b"--b-1\r\n" + b"x" * 2 * MAX_HEADER_BYTES, InvalidError, "its head is over"),
        (b"--b-1 " + b" " * 2 * MAX_HEADER_BYTES, InvalidError, "its head is over"),
    ],
)
async def test_broken_forms(body: bytes, kind: type[Exception], message: str) -> None:
    """What is no whole form is refused with the reference's words."""
    with pytest.raises(kind, match=message):
        await parts_of([body])
