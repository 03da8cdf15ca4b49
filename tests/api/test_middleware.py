"""The one middleware: headers, preflights, redirects, errors, streams that break."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from yarl import URL

from sandbox_api import errors
from sandbox_api.api.audit import audit
from sandbox_api.api.middleware import COMMON_HEADERS, STATUSES
from sandbox_api.api.wire import SHUTDOWN

Caplog = pytest.LogCaptureFixture
AppClient = Callable[..., Awaitable[TestClient]]

PLAIN_404 = "404 page not found"
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
}
CACHE = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Content-Type-Options": "nosniff",
}


def holds(headers: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(headers.get(name) == value for name, value in wanted.items())


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("PATCH", "/health"), ("GET", "/filesystem"), ("PUT", "/x/")],
)
async def test_what_is_no_route_is_a_plain_404(
    app_client: AppClient, method: str, path: str
) -> None:
    """Clients detect a missing feature by a 404 that is not JSON; there is no 405."""
    answer = await (await app_client()).request(method, path)
    assert (answer.status, await answer.text()) == (404, PLAIN_404)
    assert answer.headers["Content-Type"] == "text/plain"
    assert holds(answer.headers, CORS | CACHE)


async def test_every_answer_has_the_common_headers(app_client: AppClient) -> None:
    """Those of the reference, and nothing that tells what serves."""
    answer = await (await app_client()).get("/health")
    assert holds(answer.headers, CORS | CACHE)
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Server" not in answer.headers
    assert "Server-Timing" not in answer.headers


async def test_processing_time_is_told_on_request(app_client: AppClient) -> None:
    """ENABLE_PROCESSING_TIME adds Server-Timing, to a 404 as well."""
    client = await app_client(processing_time=True)
    for path in ("/health", "/nope"):
        timing = (await client.get(path)).headers["Server-Timing"]
        assert timing.startswith("total;dur=")
        assert timing.endswith('desc="Processing time of the Sandbox API request"')


async def test_preflights_get_what_they_ask_for(app_client: AppClient) -> None:
    """204 for any path, only CORS headers, and header names that are no names are left out."""
    asked = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "x-my-header, content-type, bad name, ü",
    }
    answer = await (await app_client()).options("/anything/at/all", headers=asked)
    assert (answer.status, await answer.read()) == (204, b"")
    assert answer.headers["Access-Control-Allow-Methods"].endswith("OPTIONS, PATCH")
    allowed = answer.headers["Access-Control-Allow-Headers"]
    assert allowed == "Content-Type, Authorization, x-my-header"
    assert set(answer.headers) - set(CORS) == {"Date"}


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/health/", 301, "/health"),
        ("GET", "/process/", 301, "/process"),
        ("POST", "/process/?a=%2F&b", 307, "/process?a=%2F&b"),
        ("GET", "//health/", 301, "/health"),
    ],
)
async def test_slash_mismatches_redirect(
    app_client: AppClient, method: str, path: str, status: int, location: str
) -> None:
    """To the sibling that exists, with the query, and without the common headers."""
    client = await app_client()
    url = URL(f"{str(client.make_url('/')).rstrip('/')}{path}", encoded=True)
    answer = await client.session.request(method, url, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (status, location)
    assert not set(answer.headers) & set(COMMON_HEADERS)


async def test_a_doubled_leading_slash_is_forgiven(app_client: AppClient) -> None:
    """The JavaScript SDK sends `//filesystem//tmp/x`."""
    client = await app_client()
    url = client.make_url("/").with_path("//health", encoded=True)
    assert (await client.session.get(url)).status == 200


@pytest.mark.parametrize("kind", sorted(STATUSES, key=str))
async def test_error_kinds_have_their_status_and_body(app_client: AppClient, kind: type) -> None:
    """One body for all: `error`, and the fields of the error beside it."""

    async def fail(_: web.Request) -> web.Response:
        raise kind("what\udcff was wrong", {"code": "X"})

    answer = await (await app_client(routes=[web.get("/fail", fail)])).get("/fail")
    assert answer.status == STATUSES[kind]
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert await answer.json() == {"error": "what\ufffd was wrong", "code": "X"}


async def test_an_unexpected_error_is_a_500_without_details(
    app_client: AppClient, caplog: Caplog
) -> None:
    """The traceback is in the log and nowhere else."""

    async def fail(_: web.Request) -> web.Response:
        raise ZeroDivisionError("private detail")

    answer = await (await app_client(routes=[web.get("/fail", fail)])).get("/fail")
    assert answer.status == 500
    assert "private" not in await answer.text()
    assert (await answer.json())["error"]
    assert any("private detail" in str(record.exc_info) for record in caplog.records)


@pytest.mark.parametrize("exc", [errors.FailedError("late"), ZeroDivisionError("late")])
async def test_an_error_in_a_stream_drops_the_connection(
    app_client: AppClient, exc: Exception
) -> None:
    """No second status line in the middle of a stream, and no clean end either."""

    async def fail(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise exc

    client = await app_client(routes=[web.get("/fail", fail)])
    answer = await client.get("/fail")
    assert await answer.content.readany() == b"begun"
    with pytest.raises(aiohttp.ClientPayloadError):
        await answer.read()
    assert (await client.get("/health")).status == 200


async def test_a_client_that_leaves_ends_its_handler_quietly(
    app_client: AppClient, eventually: Callable[..., Awaitable[object]], caplog: Caplog
) -> None:
    """The handler is cancelled, one access line is written, and no error."""
    ended = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 1000)
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    caplog.set_level(logging.INFO)
    client = await app_client(routes=[web.get("/stream", stream)])
    answer = await client.get("/stream")
    await answer.content.readany()
    answer.close()
    await asyncio.wait_for(ended.wait(), 5)
    await eventually(lambda: "GET /stream 200" in caplog.text)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_g31_shutdown_cuts_one_stream_and_tells_another(
    app_client: AppClient,
) -> None:
    """A live log stream ends without its final chunk; a stream that waits for it ends cleanly."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        shutdown = request.app[SHUTDOWN]
        if request.path == "/goodbye":
            await shutdown.began.wait()
            await response.write(b" goodbye")
            return response
        with shutdown.cut(request):
            await asyncio.Event().wait()
        return response

    routes = [web.get("/cut", stream), web.get("/goodbye", stream)]
    client = await app_client(routes=routes)
    cut, goodbye = await client.get("/cut"), await client.get("/goodbye")
    assert await cut.content.readany() == b"begun"
    client.app[SHUTDOWN].begin()
    assert await goodbye.read() == b"begun goodbye"
    with pytest.raises(aiohttp.ClientPayloadError):
        await cut.read()


async def test_the_access_line_tells_and_keeps_secrets(
    app_client: AppClient, caplog: Caplog
) -> None:
    """Method, path, status, bytes and time; values of secret parameters are redacted."""
    caplog.set_level(logging.INFO)
    client = await app_client()
    query = [("Token", "hush"), ("a", "b"), ("api_key", "hush")]
    body = await (await client.get("/health", params=query)).read()
    await client.get("/nope?q=1;jwt=hush&%74oken=hush")
    await client.options("/health")
    await client.get("/health/", allow_redirects=False)
    lines = [json.loads(m) for m in caplog.messages if '"source":"access"' in m]
    shown = "GET /health?Token=%5BREDACTED%5D&a=b&api_key=%5BREDACTED%5D 200"
    assert lines[0]["msg"].startswith(f"{shown} {len(body)} ")
    assert (lines[0]["level"], lines[1]["level"]) == ("info", "error")
    assert len(lines) == 2
    assert "hush" not in caplog.text


async def test_an_audit_line_names_who_and_what(app_client: AppClient, caplog: Caplog) -> None:
    """The identity headers of the edge, the action and its extras, quoted as in the spec."""

    async def act(request: web.Request) -> web.Response:
        audit(request, "process_exec", command='echo "a b"\nx', working_dir="")
        return web.Response()

    caplog.set_level(logging.INFO)
    client = await app_client(routes=[web.get("/act", act)])
    headers = {"X-Subject-Id": "fb", "X-Blaxel-Auth-Method": "api key", "X-Request-Id": 'rid"1'}
    await client.get("/act", headers=headers)
    line = next(record for record in caplog.records if record.name == "sandbox_api.audit")
    assert line.getMessage() == (
        'type=process_exec sub-id=fb auth-method="api key" rid=rid"1 '
        'command="echo \\"a b\\"\\nx" working-dir='
    )
    assert vars(line)["working-dir"] == ""
