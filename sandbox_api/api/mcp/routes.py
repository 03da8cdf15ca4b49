"""MCP over streamable HTTP: `/mcp` (spec/mcp-codegen.md 1).

An answer is plain JSON, or a stream of server-sent events where the client asked to be told how a
call goes. `GET` is the stream of what a session subscribed to; without a session there is none.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

from sandbox_api.api.mcp.jsonrpc import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Json,
    Message,
    Notification,
    Request,
    RpcError,
    error_reply,
    notification,
    parse,
)
from sandbox_api.api.mcp.peers import Peer
from sandbox_api.api.mcp.sessions import Session
from sandbox_api.api.mcp.versions import (
    ASSUMED,
    FIRST_WITHOUT_BATCHES,
    VERSION_HEADER,
    check_header,
    check_modern,
    is_modern,
)
from sandbox_api.api.middleware import json_error, not_found
from sandbox_api.api.wire import SHUTDOWN, dump_json, read_body
from sandbox_api.errors import TooLargeError

if TYPE_CHECKING:
    from sandbox_api.api.mcp.server import Server

MAX_BODY_BYTES: Final = 4 << 20
SESSION_HEADER: Final = "Mcp-Session-Id"
KEEP_ALIVE_S: Final = 15.0
KEEP_ALIVE: Final = b": keepalive\n\n"
_CACHING: Final = {"Cache-Control": "no-cache, no-transform"}
_EVENTS: Final = {**_CACHING, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
_BAD_REQUEST, _NOT_FOUND, _TOO_LARGE, _WRONG_TYPE = 400, 404, 413, 415


class Endpoint:
    """The server, made when it is first used: its models and schemas take time to build.

    Args:
        app: the application, where the owners are found.
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._server: Server | None = None

    async def server(self) -> "Server":
        """The one server of the application."""
        if self._server is None:
            make = await asyncio.to_thread(_load)
            if self._server is None:  # nobody was faster
                self._server = make(self._app)
        return self._server

    def close(self) -> None:
        """The daemon stops."""
        if self._server is not None:
            self._server.close()


def _load() -> "type[Server]":
    """Import the server and its tools; takes long, so on a thread of its own."""
    from sandbox_api.api.mcp.server import Server  # noqa: PLC0415 - see the package's docstring

    return Server


ENDPOINT: web.AppKey[Endpoint] = web.AppKey("mcp", Endpoint)


class _RefusedError(Exception):
    """A request that is refused as a whole."""

    def __init__(self, status: int, error: RpcError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


async def post(request: web.Request) -> web.StreamResponse:
    """One message, or a batch of them where the version has batches."""
    server = await request.app[ENDPOINT].server()
    try:
        session = server.sessions.find(request.headers.get(SESSION_HEADER))
        version = _version(request, session)
        messages, batch = await _read(request, version)
    except _RefusedError as exc:
        return _reply(error_reply(None, exc.error), exc.status)
    peer = Peer(headers=request.headers, session=session)
    if not batch and isinstance(messages[0], Request):
        return await _answer_one(request, server, messages[0], peer)
    return await _answer_all(server, messages, peer, batch=batch)


async def _answer_one(
    request: web.Request, server: "Server", asked: Request, peer: Peer
) -> web.StreamResponse:
    if is_modern(request.headers.get(VERSION_HEADER), asked):
        try:
            check_modern(request.headers, asked)
        except RpcError as exc:
            return _reply(error_reply(asked.id, exc), _BAD_REQUEST)
        peer.modern = True
    if server.reports(asked):
        return await _answer_as_stream(request, server, asked, peer)
    answer = await server.run(asked, peer)
    if answer is None:
        return web.Response(status=202)
    unknown = peer.modern and answer.get("error", {}).get("code") == METHOD_NOT_FOUND
    response = _reply(answer, _NOT_FOUND if unknown else 200)
    if asked.method == "initialize" and peer.session is not None:
        response.headers[SESSION_HEADER] = peer.session.id
    return response


async def _answer_all(
    server: "Server", messages: Sequence[Message | RpcError], peer: Peer, *, batch: bool
) -> web.Response:
    """A batch, or what needs no answer."""
    asked = [one for one in messages if isinstance(one, Request | RpcError)]
    for one in messages:
        if isinstance(one, Notification):
            server.take(one, peer)
    if not asked:
        return web.Response(status=202)
    if not batch:
        return _reply(error_reply(None, cast("RpcError", asked[0])), _BAD_REQUEST)
    answers = await asyncio.gather(*(_answer_part(server, one, peer) for one in asked))
    told = [answer for answer in answers if answer is not None]
    body = b"[" + b",".join(map(dump_json, told)) + b"]"
    return web.Response(body=body, headers={**_CACHING, "Content-Type": "application/json"})


async def _answer_part(server: "Server", one: Request | RpcError, peer: Peer) -> Json | None:
    if isinstance(one, RpcError):
        return error_reply(None, one)
    return await server.run(one, peer)


async def _answer_as_stream(
    request: web.Request, server: "Server", asked: Request, peer: Peer
) -> web.StreamResponse:
    """The call's notifications as they come, then its answer."""
    response = web.StreamResponse(headers=_EVENTS)

    async def notify(method: str, params: Mapping[str, object]) -> None:
        await response.write(_event(notification(method, params)))

    peer.notify = notify
    with request.app[SHUTDOWN].cut(request):
        await response.prepare(request)
        work = asyncio.ensure_future(server.run(asked, peer))
        try:
            while not (await asyncio.wait([work], timeout=KEEP_ALIVE_S))[0]:
                await response.write(KEEP_ALIVE)
        finally:
            work.cancel()
        answer = await work
        await response.write_eof(b"" if answer is None else _event(answer))
    return response


async def get(request: web.Request) -> web.StreamResponse:
    """What a session subscribed to, as it changes."""
    server = await request.app[ENDPOINT].server()
    session = server.sessions.find(request.headers.get(SESSION_HEADER))
    if session is None or "text/event-stream" not in request.headers.get("Accept", ""):
        response = json_error(
            405, "SSE streaming not supported. Please use POST for MCP communication."
        )
        response.headers["Allow"] = "POST"
        return response
    stream = web.StreamResponse(headers=_EVENTS)
    with request.app[SHUTDOWN].cut(request):
        await stream.prepare(request)
        number = session.open_stream()
        await stream.write(KEEP_ALIVE)  # so that the client sees its headers
        while (messages := await session.next(number, KEEP_ALIVE_S)) is not None:
            await stream.write(b"".join(map(_event, messages)) or KEEP_ALIVE)
        await stream.write_eof()
    return stream


async def delete(request: web.Request) -> web.Response:
    """End a session."""
    sessions = (await request.app[ENDPOINT].server()).sessions
    session = sessions.find(request.headers.get(SESSION_HEADER))
    if session is None:
        return not_found()
    sessions.end(session)
    return web.Response(status=204)


def _version(request: web.Request, session: Session | None) -> str:
    """The version that the request speaks."""
    version = request.headers.get(VERSION_HEADER)
    try:
        check_header(version)
    except RpcError as exc:
        raise _RefusedError(_BAD_REQUEST, exc) from None
    return version or (ASSUMED if session is None else session.version)


async def _read(request: web.Request, version: str) -> tuple[Sequence[Message | RpcError], bool]:
    """The messages of the body, and whether they are a batch."""
    _check_headers(request)
    try:
        body = await read_body(request, MAX_BODY_BYTES, "send less at once")
    except TooLargeError:
        text = f"request body exceeds {MAX_BODY_BYTES} bytes"
        raise _refused(text, status=_TOO_LARGE) from None
    if not body:
        raise _refused("POST requires a non-empty body")
    try:
        messages, batch = parse(body)
    except RpcError as exc:
        raise _RefusedError(_BAD_REQUEST, exc) from None
    if batch and version >= FIRST_WITHOUT_BATCHES:
        raise _refused(
            f"JSON-RPC batching is not supported in {FIRST_WITHOUT_BATCHES} and later "
            f"(request version: {version:.40})"
        )
    return messages, batch


def _check_headers(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise _refused("Content-Type must be 'application/json'", status=_WRONG_TYPE)
    accepted = {
        part.partition(";")[0].strip().lower()
        for part in ",".join(request.headers.getall("Accept", ["*/*"])).split(",")
    }
    for kind, any_of_it in (("application/json", "application/*"), ("text/event-stream", "text/*")):
        if not accepted & {kind, any_of_it, "*/*"}:
            raise _refused("Accept must contain both 'application/json' and 'text/event-stream'")
    if "Last-Event-ID" in request.headers:
        raise _refused("can't send Last-Event-ID for POST request")


def _refused(text: str, *, status: int = _BAD_REQUEST) -> _RefusedError:
    return _RefusedError(status, RpcError(INVALID_REQUEST, text))


def _reply(message: Json, status: int = 200) -> web.Response:
    return web.Response(
        body=dump_json(message),
        status=status,
        headers={**_CACHING, "Content-Type": "application/json"},
    )


def _event(message: Json) -> bytes:
    return b"event: message\ndata: " + dump_json(message) + b"\n\n"


ROUTES = (
    web.post("/mcp", post),
    web.get("/mcp", get, allow_head=False),
    web.delete("/mcp", delete),
)
