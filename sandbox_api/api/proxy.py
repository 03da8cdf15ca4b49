"""The way to an app in the sandbox: `/port/{port}{/path}`; nothing is added or changed.

A request goes on as it came, its body while it comes; so does the answer. After a 101 both
connections are a pipe. When one side leaves, the other is closed.
"""

import asyncio
import re
from contextlib import suppress
from http import HTTPStatus
from typing import Final, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.streams import StreamReader

from sandbox_api.api.bodies import Receiver
from sandbox_api.api.proxy_heads import (
    AnswerHead,
    Route,
    is_interim,
    is_repeatable,
    request_head,
    sends_chunks,
    wanted_upgrade,
)
from sandbox_api.api.relay import relay
from sandbox_api.api.upstream import (
    BUFFER_BYTES,
    NobodyListensError,
    StaleConnectionError,
    Upstream,
)
from sandbox_api.api.wire import ACCESS, APPS, SHUTDOWN, STARTED
from sandbox_api.core.ports import explain_refusal
from sandbox_api.errors import InvalidError, UpstreamError

MAX_PORT: Final = 65535
LAST_BYTES_TIMEOUT_S: Final = 1.0
_PORT: Final = re.compile("0*[0-9]{1,5}", re.ASCII)


class Relayed(web.StreamResponse):
    """An answer of an app; it has been sent, as it came, when its handler returns it."""

    def __init__(self, request: web.Request, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._sent_by = request.writer
        self._reusable = keep_alive
        request[STARTED] = self

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow on the client's connection."""
        return self._reusable

    @property
    def body_length(self) -> int:
        """Bytes that were sent, for the access log."""
        return self._sent_by.output_size

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Nothing is left to be sent."""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """The same."""


async def forward(request: web.Request) -> web.StreamResponse:
    """Send a request on to the app on a port, and its answer back."""
    return await _forward(request, Route(_port(request), whole=False))


async def forward_whole(request: web.Request) -> web.StreamResponse:
    """The same for an app that knows its own path and has to see it: dev servers with a base."""
    return await _forward(request, Route(_port(request), whole=True))


async def _forward(request: web.Request, route: Route) -> web.StreamResponse:
    port, repeatable = route.port, is_repeatable(request)
    head = request_head(request, route, request.app[ACCESS])
    try:
        while True:  # a fresh connection is the last
            with suppress(StaleConnectionError):
                async with request.app[APPS].connect(port, repeatable=repeatable) as app:
                    app.send_head(head, method=request.method)
                    return await _exchange(request, app)
    except NobodyListensError:
        text = await asyncio.to_thread(explain_refusal, port)
        raise UpstreamError(text) from None


async def leave_expectation(_: web.Request) -> None:
    """`Expect: 100-continue` is the app's to answer."""


def _port(request: web.Request) -> int:
    text = request.match_info["port"]
    if not _PORT.fullmatch(text) or not 0 < int(text) <= MAX_PORT:
        raise InvalidError(f"invalid port '{text:.40}': a number from 1 to {MAX_PORT} is expected")
    port = int(text)
    own = request.get_extra_info("sockname")
    if own is not None and own[1] == port:
        raise InvalidError(
            f"port {port} is this daemon's own: leave /port/{port} out of the path to reach it"
        )
    return port


async def _exchange(request: web.Request, app: Upstream) -> web.StreamResponse:
    """Body and answer go at the same time: an app may answer before it has read everything."""
    client = cast("Receiver", request.protocol)
    sending = asyncio.ensure_future(
        app.send_body(client, request.content, chunked=sends_chunks(request))
    )
    try:
        message, body = await app.answer()
        while is_interim(message):
            await _pass_interim(request, message)
            message, body = await app.answer()
        if message.code == HTTPStatus.SWITCHING_PROTOCOLS:
            return await _switch(request, message, app)
        return await _relay(request, app, message, body)
    finally:
        sending.cancel()


async def _pass_interim(request: web.Request, message: RawResponseMessage) -> None:
    if request.version >= (1, 1):
        await _send(request, AnswerHead(request, message).interim())


async def _relay(
    request: web.Request, app: Upstream, message: RawResponseMessage, body: StreamReader
) -> web.StreamResponse:
    head = AnswerHead(request, message)
    response = Relayed(request, message.code, keep_alive=head.keep_alive)
    await _send(request, head.final())
    writer = cast("StreamWriter", request.writer)
    if head.chunked:
        writer.enable_chunking()
    try:
        await relay(app.protocol, body, writer)
    except ConnectionError:
        request.protocol.force_close()
        raise
    return response


async def _send(request: web.Request, data: bytes) -> None:
    """Bytes of a head."""
    await request.writer.write(data)


async def _switch(
    request: web.Request, message: RawResponseMessage, app: Upstream
) -> web.StreamResponse:
    """From here on bytes go both ways until one side ends."""
    if not wanted_upgrade(request):
        raise UpstreamError("the app switches to a protocol that was not asked for")
    response = Relayed(request, message.code, keep_alive=False)
    await _send(request, AnswerHead(request, message).switching())
    client = request.protocol
    from_client, from_app = _Bytes(client), _Bytes(app.protocol)
    client.set_parser(from_client)  # type: ignore[arg-type] # it takes whatever is fed
    app.protocol.set_parser(from_app, from_app.stream)
    upward = asyncio.ensure_future(_pipe(from_client.stream, app.writer))
    try:
        with request.app[SHUTDOWN].cut(request):
            await _pipe(from_app.stream, request.writer)
    except asyncio.CancelledError:  # the client has gone; what it said last still goes on
        await asyncio.wait([upward], timeout=LAST_BYTES_TIMEOUT_S)
        raise
    finally:
        upward.cancel()
        app.protocol.close()
    return response


class _Bytes:
    """What a connection feeds once it speaks HTTP no more: bytes, which a stream keeps."""

    def __init__(self, protocol: BaseProtocol) -> None:
        loop = asyncio.get_running_loop()
        self.stream = StreamReader(protocol, BUFFER_BYTES, loop=loop)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep what came; the stream stops the connection when that is too much."""
        self.stream.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """The connection has ended."""
        self.stream.feed_eof()


async def _pipe(source: StreamReader, target: AbstractStreamWriter) -> None:
    with suppress(ConnectionError):
        async for data in source.iter_any():
            await target.write(data)


PORT: Final = "{port:[^/]+}"
PATH: Final = r"/{path:[\s\S]*}"
ROUTES = tuple(
    web.route("*", pattern, handler, expect_handler=leave_expectation)
    for pattern, handler in (
        (f"/port/{PORT}", forward),
        (f"/port/{PORT}{PATH}", forward),
        (f"/port/abs/{PORT}", forward_whole),
        (f"/port/abs/{PORT}{PATH}", forward_whole),
    )
)
