"""`/port`: what an app gets is what was sent, and what the client gets is what the app said."""

import asyncio
import socket
from types import SimpleNamespace

import pytest
from aiohttp.test_utils import TestClient

from tests.api.proxy.conftest import OK, AppClient, StartRaw, exchange
from tests.serving import free_port

IPV6 = socket.has_dualstack_ipv6()


def lines(head: bytes) -> list[bytes]:
    """The lines of a head."""
    return head.removesuffix(b"\r\n\r\n").split(b"\r\n")


async def send(client: TestClient, target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    """One request of exactly these bytes; the whole answer."""
    head = [method + b" " + target + b" HTTP/1.1", b"Host: box:8080", *headers]
    return await exchange(client, b"\r\n".join([*head, b"Connection: close", b"", b""]))


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (b"", b"/"),
        (b"/", b"/"),
        (b"?q=1", b"/?q=1"),
        (b"/a/b%20c?q=1&r=%2F", b"/a/b%20c?q=1&r=%2F"),
        (b"/%2F%2e%2E/%c3%BC+%zz%", b"/%2F%2e%2E/%c3%BC+%zz%"),
        (b"//a///b//", b"//a///b//"),
        (b"/../../process", b"/../../process"),
        (b"/filesystem%2Ftmp", b"/filesystem%2Ftmp"),
        (b"/x?", b"/x?"),
        (b"/x??a=?&&=;", b"/x??a=?&&=;"),
        (b"/x?token=mine&bl_preview_token=a", b"/x?token=mine&bl_preview_token=a"),
        (b"/%0A%00", b"/%0A%00"),
    ],
)
async def test_a_target_is_passed_on_byte_by_byte(
    client: TestClient, recorder: SimpleNamespace, sent: bytes, got: bytes
) -> None:
    """Escapes, doubled slashes, dots and an empty query mean something to some app."""
    answer = await send(client, b"/port/%d%s" % (recorder.port, sent))
    assert answer.endswith(b"\r\n\r\nok")
    assert lines(recorder.heads[0])[0] == b"GET " + got + b" HTTP/1.1"


@pytest.mark.parametrize("prefix", [b"http://box:8080/port/%d", b"//port/%d", b"/%%70ort/%d"])
async def test_other_forms_of_a_target(
    client: TestClient, recorder: SimpleNamespace, prefix: bytes
) -> None:
    """With the authority, as a proxy's client sends it, and with a base that ends in a slash."""
    await send(client, prefix % recorder.port + b"//a%2F?b")
    assert lines(recorder.heads[0])[0] == b"GET //a%2F?b HTTP/1.1"


@pytest.mark.parametrize("rest", [b"", b"/", b"?q", b"/a%2Fb//c?q", b"/abs/1/"])
async def test_an_app_that_knows_its_path_gets_the_whole(
    client: TestClient, recorder: SimpleNamespace, rest: bytes
) -> None:
    """A dev server with a base answers there only; nothing was cut off, so no prefix is told."""
    target = b"/port/abs/%d" % recorder.port + rest
    assert (await send(client, target)).endswith(b"\r\n\r\nok")
    head = lines(recorder.heads[0])
    assert head[:2] == [b"GET " + target + b" HTTP/1.1", b"Host: localhost:%d" % recorder.port]
    assert not [line for line in head if line.startswith(b"X-Forwarded-Prefix")]


async def test_headers_are_passed_on_as_they_came(
    client: TestClient, recorder: SimpleNamespace
) -> None:
    """Order, spelling, doubles and bytes that are no UTF-8; what one connection has is dropped."""
    await send(
        client,
        b"/port/%d/" % recorder.port,
        b"x-ONE: a\xff",
        b"X-Two: 1",
        b"Keep-Alive: 5",
        b"TE: trailers",
        b"Accept-Encoding: br;q=1",
        b"X-Two: 2",
        b"Connection: X-Mine, Content-Length, Host",
        b"X-Mine: x",
        b"X-Forwarded-For: 9.9.9.9",
        b"Authorization: Basic YTpi",
        b"Cookie: a=b;c=d",
    )
    assert lines(recorder.heads[0])[1:] == [
        b"Host: localhost:%d" % recorder.port,
        b"x-ONE: a\xff",
        b"X-Two: 1",
        b"Accept-Encoding: br;q=1",
        b"X-Two: 2",
        b"Authorization: Basic YTpi",
        b"Cookie: a=b;c=d",
        b"X-Forwarded-For: 9.9.9.9, 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: box:8080",
        b"X-Forwarded-Prefix: /port/%d" % recorder.port,
    ]


async def test_a_gateways_word_on_the_way_is_kept(
    client: TestClient, recorder: SimpleNamespace
) -> None:
    """It knows the scheme, the name and the path under which the client came."""
    told = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: x.bl.run", b"X-Forwarded-Prefix: /a/"]
    await send(client, b"/port/%d/" % recorder.port, *told)
    head = lines(recorder.heads[0])
    assert set(told[:2]) <= set(head)
    assert b"X-Forwarded-Prefix: /a/port/%d" % recorder.port in head


async def test_an_answer_is_passed_back_as_it_came(
    client: TestClient, recorder: SimpleNamespace
) -> None:
    """Status, reason, redirects, cookies, encodings; nothing of ours is added."""
    told = (
        b"Location: http://localhost:1/x\r\nset-cookie: a=b; Path=/\r\nSet-Cookie: c=d\r\n"
        b"X-Raw: \xff\xe9\r\nContent-Encoding: gzip\r\nServer: mine\r\n"
    )
    recorder.answer = (
        b"HTTP/1.1 302 Look \xe9lsewhere\r\n" + told + b"Connection: X-Hop\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nContent-Length: 3\r\n\r\nabc"
    )
    answer = await send(client, b"/port/%d/" % recorder.port)
    assert answer == (
        b"HTTP/1.1 302 Look \xe9lsewhere\r\n"
        + told
        + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc"
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
    ],
)
async def test_an_answer_without_a_length(
    client: TestClient, recorder: SimpleNamespace, answer: bytes
) -> None:
    """However the app marks the end, the client's connection can go on."""
    recorder.answer = answer
    head = b"GET /port/%d/ HTTP/1.1\r\nHost: x\r\n" % recorder.port
    got = await exchange(client, head + b"\r\n" + head + b"Connection: close\r\n\r\n")
    chunked = b"Transfer-Encoding: chunked\r\n"
    body = b"\r\n3\r\nabc\r\n0\r\n\r\n"
    begin = b"HTTP/1.1 200 OK\r\n" + chunked
    assert got == begin + body + begin + b"Connection: close\r\n" + body


async def test_a_client_of_http_1_0(client: TestClient, recorder: SimpleNamespace) -> None:
    """It knows no chunks: the end of the connection is the end of the body."""
    recorder.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    got = await exchange(client, b"GET /port/%d/ HTTP/1.0\r\n\r\n" % recorder.port)
    assert got == b"HTTP/1.1 200 OK\r\n\r\nabc"
    recorder.answer = OK
    keep = b"GET /port/%d/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % recorder.port
    got = await exchange(client, keep + b"GET /health HTTP/1.0\r\n\r\n")
    assert got.startswith(OK.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
    assert b'"status":"ok"' in got


@pytest.mark.parametrize(
    ("method", "status"),
    [(b"HEAD", b"200 OK"), (b"GET", b"304 Not Modified"), (b"GET", b"204 No Content")],
)
async def test_an_answer_without_a_body(
    client: TestClient, recorder: SimpleNamespace, method: bytes, status: bytes
) -> None:
    """Its length is told all the same, and no byte follows."""
    length = b"" if status.startswith(b"204") else b"Content-Length: 7\r\n"
    recorder.answer = b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n"
    got = await send(client, b"/port/%d/" % recorder.port, method=method)
    assert got == b"HTTP/1.1 " + status + b"\r\n" + length + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize("method", [b"OPTIONS", b"PATCH", b"DELETE", b"TRACE", b"PROPFIND"])
async def test_every_method(client: TestClient, recorder: SimpleNamespace, method: bytes) -> None:
    """An app answers its own OPTIONS, without CORS headers of ours."""
    got = await send(client, b"/port/%d/x/" % recorder.port, method=method)
    assert got == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert recorder.heads[0].startswith(method + b" /x/ HTTP/1.1\r\n")


async def test_interim_answers(client: TestClient, recorder: SimpleNamespace) -> None:
    """Early hints reach the client before the answer does."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    recorder.answer = hints + OK
    got = await send(client, b"/port/%d/" % recorder.port)
    assert got.startswith(hints + b"HTTP/1.1 200 OK\r\n")


async def test_the_app_answers_an_expectation(client: TestClient, start_raw: StartRaw) -> None:
    """It may refuse a body before it is sent: no 100 is sent in its name."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect: 100-continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)

    headers = b"Host: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    for serve, first in ((refuse, b"HTTP/1.1 417 No\r\n"), (accept, b"HTTP/1.1 100 Continue\r\n")):
        port = await start_raw(serve)
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"PUT /port/%d/ HTTP/1.1\r\n" % port + headers)
        assert await asyncio.wait_for(reader.readline(), 10) == first
        if serve is accept:
            writer.write(b"body")
            rest = await asyncio.wait_for(reader.readuntil(b"ok"), 10)
            assert rest == b"\r\n" + OK
        writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_wherever_an_app_listens(client: TestClient, start_raw: StartRaw, host: str) -> None:
    """All addresses or loopback only, of either family."""
    if ":" in host and not IPV6:
        pytest.skip("no IPv6 here")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    port = await start_raw(serve, host, free_port())  # free on 127.0.0.1 as well
    assert await (await client.get(f"/port/{port}/")).text() == "ok"


async def error(client: TestClient, port: object, status: int) -> str:
    """The text of a failure of ours."""
    async with client.get(f"/port/{port}/") as answer:
        assert answer.status == status
        assert answer.content_type == "application/json"
        text: str = (await answer.json())["error"]
        return text


async def test_nothing_listens(client: TestClient, start_raw: StartRaw) -> None:
    """502, and what to do; so for a port that is open in another way only."""
    port = free_port()
    assert await error(client, port, 502) == (
        f"nothing listens on port {port}; start the app, or wait until it listens"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", port))
        assert "only UDP is open" in await error(client, port, 502)

    async def serve(*_: object) -> None:
        pass

    port = await start_raw(serve, "127.0.0.7")
    assert await error(client, port, 502) == (
        f"port {port} listens on 127.0.0.7 only; bind the app to 127.0.0.1, 0.0.0.0 or ::"
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nConte", "closed the connection before it answered"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "sent no valid HTTP answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "was not asked for"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "sent no valid HTTP answer"),
    ],
)
async def test_an_app_that_does_not_answer(
    client: TestClient, recorder: SimpleNamespace, answer: bytes, text: str
) -> None:
    """502 says that it was the app, and how it failed."""
    recorder.answer = answer
    assert text in await error(client, recorder.port, 502)


async def test_an_app_that_resets_the_connection(client: TestClient, start_raw: StartRaw) -> None:
    """The same for a crash."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    assert "closed the connection" in await error(client, await start_raw(serve), 502)


@pytest.mark.parametrize(
    "port", ["0", "65536", "99999999999", "x", "-1", "8080x", "٣٠٠٠", "30%2F1"]
)
async def test_what_is_no_port(client: TestClient, port: str) -> None:
    """400 names the value."""
    assert "a number from 1 to 65535 is expected" in await error(client, port, 400)


@pytest.mark.parametrize("path", ["/port", "/port/", "/port//x"])
async def test_no_port_at_all(client: TestClient, path: str) -> None:
    """There is no such route."""
    async with client.get(path) as answer:
        assert (answer.status, await answer.text()) == (404, "404 page not found")


async def test_the_daemons_own_port_is_no_way_to_it(client: TestClient) -> None:
    """A request that comes round again and again would never end."""
    assert "this daemon's own" in await error(client, client.port, 400)


async def test_no_server_timing_of_ours(app_client: AppClient, recorder: SimpleNamespace) -> None:
    """Whatever is set, an app's answer is its own."""
    client = await app_client(processing_time=True)
    async with client.get(f"/port/{recorder.port}/") as answer:
        assert dict(answer.headers) == {"Content-Length": "2"}


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /nope HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n", 431),
        (b"GET /nope HTTP/1.1\r\n" + b"X: y\r\n" * 300, 431),
        (b"GET /nope?" + b"a" * 70_000 + b" HTTP/1.1\r\n", 414),
        (b"GET /nope?" + b"a" * 60_000 + b" HTTP/1.1\r\nX: " + b"a" * 60_000 + b"\r\n", 404),
        (b"GET /nope HTTP/1.1\r\n" + b"X: y\r\n" * 200, 404),
    ],
)
async def test_the_limits_on_a_head_are_the_same_after_a_body(
    client: TestClient, start_raw: StartRaw, head: bytes, status: int
) -> None:
    """The parser that takes over behind a body has those of the first one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(OK)
        await writer.drain()

    path = b"/port/%d/" % await start_raw(serve)
    before = b"PUT " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
    last = head + b"Host: x\r\nConnection: close\r\n\r\n"
    alone = await exchange(client, last)
    after = (await exchange(client, before + last)).partition(b"\r\n\r\nok")[2]
    for answer in (alone, after):
        assert int(answer.split()[1]) == status
    assert alone.partition(b"\r\n\r\n")[2] == after.partition(b"\r\n\r\n")[2]
