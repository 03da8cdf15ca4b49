"""G27: no input makes the daemon fail. This table is written by hand."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

AppClient = Callable[..., Awaitable[TestClient]]

HOST = b"Host: localhost\r\n"
END = HOST + b"Connection: close\r\n\r\n"

# what is sent, and the statuses that are right; none: the connection may just be closed
RAW: dict[str, tuple[bytes, set[int | None]]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400, None}),
    "garbage": (b"hello, are you there?\r\n\r\n", {400}),
    "empty lines": (b"\r\n\r\n\r\n", {None}),
    "nothing": (b"", {None}),
    "half a request line": (b"GET /hea", {None}),
    "half a head": (b"GET /health HTTP/1.1\r\nHost: loc", {None}),
    "half a body": (b"POST /process HTTP/1.1\r\nContent-Length: 99\r\n" + END + b'{"comm', {None}),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + END, {400}),
    "method in lower case": (b"get / HTTP/1.1\r\n" + END, {400}),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + END, {400, 404}),
    "TRACE": (b"TRACE /health HTTP/1.1\r\n" + END, {404}),
    "unknown version": (b"GET /health HTTP/9.9\r\n" + END, {400}),
    "HTTP 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "no version": (b"GET /health\r\n\r\n", {400}),
    "no host": (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", {400}),
    "two hosts": (b"GET /process HTTP/1.1\r\nHost: evil.io\r\n" + END, {400}),
    "absolute target": (b"GET http://evil.io/nope HTTP/1.1\r\n" + END, {404}),
    "target without slash": (b"GET health HTTP/1.1\r\n" + END, {400, 404}),
    "target *": (b"GET * HTTP/1.1\r\n" + END, {400, 404}),
    "target with a space": (b"GET /a b HTTP/1.1\r\n" + END, {400}),
    "raw bytes in the target": (b"GET /\xff\xfe HTTP/1.1\r\n" + END, {400, 404}),
    "NUL in the target": (b"GET /a\x00b HTTP/1.1\r\n" + END, {400}),
    "broken escape": (b"GET /health%z HTTP/1.1\r\n" + END, {400}),
    "escape at the end": (b"GET /health% HTTP/1.1\r\n" + END, {400}),
    "escaped NUL": (b"GET /process/%00 HTTP/1.1\r\n" + END, {400, 404}),
    "escaped bytes": (b"GET /process/%ff%fe%80 HTTP/1.1\r\n" + END, {404}),
    "escaped newline": (b"GET /process/a%0d%0aX-Evil:%201 HTTP/1.1\r\n" + END, {404}),
    "surrogate": (b"GET /process/%ed%a0%80 HTTP/1.1\r\n" + END, {404}),
    "many slashes": (b"GET /" + b"/" * 60_000 + b" HTTP/1.1\r\n" + END, {200}),
    "deep path": (b"GET " + b"/a" * 30_000 + b" HTTP/1.1\r\n" + END, {414}),
    "dots": (b"GET /process/../../../../etc/passwd HTTP/1.1\r\n" + END, {404}),
    "long line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + END, {414}),
    "long query": (b"GET /health?" + b"a=b&" * 17_000 + b" HTTP/1.1\r\n" + END, {414}),
    "long field": (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n" + END, {431}),
    "long field name": (b"GET / HTTP/1.1\r\n" + b"a" * 70_000 + b": b\r\n" + END, {431}),
    "many fields": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + END, {431}),
    "many cookies": (b"GET /nope HTTP/1.1\r\nCookie: " + b"a=b;" * 15_000 + b"\r\n" + END, {404}),
    "field without colon": (b"GET / HTTP/1.1\r\nnonsense\r\n" + END, {400}),
    "NUL in a field": (b"GET / HTTP/1.1\r\nX: a\x00b\r\n" + END, {400}),
    "folded field": (b"GET /nope HTTP/1.1\r\nX: a\r\n  b\r\n" + END, {400, 404}),
    "field in latin-1": (b"GET /nope HTTP/1.1\r\nX-Request-Id: \xe4\xff\r\n" + END, {404}),
    "unknown expectation": (b"GET / HTTP/1.1\r\nExpect: cake\r\n" + END, {417}),
    "length is no number": (b"POST /process HTTP/1.1\r\nContent-Length: x\r\n" + END, {400}),
    "negative length": (b"POST /process HTTP/1.1\r\nContent-Length: -1\r\n" + END, {400}),
    "absurd length": (
        b"POST /process HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n" + END,
        {400, 413},
    ),
    "length beyond 64 bits": (
        b"POST /process HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n" + END,
        {400},
    ),
    "two lengths": (
        b"POST /process HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + END,
        {400},
    ),
    "length and chunks": (
        b"POST /process HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n" + END,
        {400},
    ),
    "bad chunk size": (
        b"POST /process HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        + END
        + b"zz\r\n{}\r\n0\r\n\r\n",
        {400},
    ),
    "chunk too short": (
        b"POST /process HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        + END
        + b"2\r\n{}{}\r\n0\r\n\r\n",
        {400},
    ),
    "huge chunk size": (
        b"POST /process HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + END + b"f" * 40 + b"\r\n{}",
        {400},
    ),
    "unknown coding": (b"POST /process HTTP/1.1\r\nTransfer-Encoding: x\r\n" + END, {400, 501}),
    "body that is not gzip": (
        b"POST /process HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n" + END + b"{}",
        {400},
    ),
    "upgrade to nothing": (
        b"GET /nope HTTP/1.1\r\nUpgrade: x\r\nConnection: Upgrade\r\n" + END,
        {400, 404},
    ),
    "pipelined garbage": (
        b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n\x00\x01\x02\r\n\r\n",
        {200, 400},
    ),
}

BODIES = {
    "empty": b"",
    "white space": b" \r\n\t",
    "NUL bytes": b"\0\0\0\0",
    "no JSON": b"this is not JSON",
    "truncated": b'{"command": "tr',
    "half an escape": b'{"command": "\\u12',
    "bad escape": b'{"command": "\\x"}',
    "wrong quotes": b"{'command': 'true'}",
    "comma at the end": b'{"command": "",}',
    "array": b"[]",
    "string": b'"x"',
    "number": b"1e999",
    "null": b"null",
    "empty object": b"{}",
    "deep array": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "deep value": b'{"command":' + b"[" * 900 + b"]" * 900 + b"}",
    "wrong types": b'{"command": {}, "content": 5, "files": "x", "name": [], "env": 3}',
    "nulls": b'{"command": null, "content": null, "permissions": null, "files": null}',
    "NaN": b'{"timeout": NaN}',
    "infinity": b'{"timeout": -Infinity}',
    "huge integer": b'{"command": "true", "timeout": 1' + b"0" * 5000 + b"}",
    "beyond 64 bits": b'{"command": "true", "timeout": 9223372036854775808}',
    "float for integer": b'{"command": "true", "timeout": 1.5, "permissions": 644}',
    "exponent for integer": b'{"command": "true", "timeout": 1e3, "permissions": 6e2}',
    "wrong elements": b'{"command": "true", "env": {"A": 1}, "waitForPorts": [""]}',
    "NUL in text": b'{"command": "true\\u0000", "name": "\\u0000", "permissions": "\\u0000"}',
    "UTF-16": '{"command": "true"}'.encode("utf-16"),
    "broken UTF-8": b'{"\xff\xfe": "\xc3\x28", "permissions": "\xff"}',
    "lone surrogates": b'{"\\ud800": "\\udfff", "permissions": "\\ud800"}',
    "byte order mark": b'\xef\xbb\xbf{"command": "true"}',
    "form": b"command=true&name=x",
}

SEGMENTS = ["%00", "%ff%fe", "a%0Ab", "%F0%9F%98%80", "x" * 4000, "%ed%a0%80", "-1", "9" * 30]


async def exchange(client: TestClient, request: bytes, *, leave: bool = False) -> bytes:
    """Everything that comes back for these bytes, until the daemon closes or we leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    try:
        writer.write(request)
        if leave:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def check_answer(answer: bytes) -> int | None:
    """The status; an error's body is the JSON error or the plain 404."""
    if not answer:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(re.match(rb"HTTP/[01]\.[019] (\d{3}) ", head)[1])  # type: ignore[index]
    assert status < 500, answer[:2000]
    if status >= 400 and body:
        plain = status == 404 and body == b"404 page not found"
        assert plain or json.loads(body)["error"], answer[:2000]
    return status


@pytest.mark.parametrize("name", RAW)
async def test_g27_raw_requests(app_client: AppClient, name: str) -> None:
    """A 4xx with a JSON error or the plain 404, or a closed connection; and the daemon lives."""
    request, right = RAW[name]
    client = await app_client()
    status = check_answer(await exchange(client, request, leave=None in right))
    assert status in right
    assert (await client.get("/health")).status == 200


@pytest.mark.parametrize("name", BODIES)
async def test_g27_bodies_on_every_route(app_client: AppClient, name: str) -> None:
    """A body is understood, ignored or refused, whatever its declared type."""
    client, body = await app_client(), BODIES[name]
    methods = {"POST", "PUT", "DELETE", "PATCH"}
    routes = {(r.method, r.resource.canonical) for r in client.app.router.routes()}
    for method, path in sorted(route for route in routes if route[0] in methods):
        url = re.sub(r"{\w+}", "hostile", path)
        for kind in (b"application/json", b"multipart/form-data; boundary=x", b"\xff"):
            head = f"{method} {url} HTTP/1.1\r\nContent-Length: {len(body)}\r\n".encode()
            answer = await exchange(client, head + b"Content-Type: " + kind + b"\r\n" + END + body)
            assert check_answer(answer), (method, path, kind)
    assert (await client.get("/health")).status == 200


@pytest.mark.parametrize("segment", SEGMENTS)
async def test_g27_names_on_every_route(app_client: AppClient, segment: str) -> None:
    """A name that cannot be is a 4xx, or an answer, on every route that takes one."""
    client = await app_client()
    routes = {(r.method, r.resource.canonical) for r in client.app.router.routes()}
    for method, path in sorted(route for route in routes if "{" in route[1]):
        url = re.sub(r"{\w+}", segment, path)
        answer = await exchange(client, f"{method} {url} HTTP/1.1\r\n".encode() + END)
        assert check_answer(answer), (method, path)
    assert (await client.get("/health")).status == 200
