"""How aiohttp serves the application: limits, time-outs, and answers before any handler runs.

aiohttp answers a malformed request itself, in plain text and from below the middleware, and waits
without end for a request that never becomes complete. Both are done here, in subclasses of its own
classes.
"""

import asyncio
import logging
import re
import socket
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpRequestParser, HttpVersion10, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from sandbox_api.api.access_log import AccessLines, AccessLogger
from sandbox_api.api.bodies import Receiver
from sandbox_api.api.middleware import ACCESS_LINES, COMMON_HEADERS, http_error, json_error

log = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 120.0
HEADER_TIMEOUT_S: Final = 30.0
SHUTDOWN_TIMEOUT_S: Final = 0.75  # aiohttp takes it twice: once to wait, once to cancel
MAX_LINE_BYTES: Final = 64 << 10
MAX_FIELD_BYTES: Final = MAX_LINE_BYTES + 1  # not the same: an error names only the limit
ERROR_HEADERS: Final = {**COMMON_HEADERS, "Server": "sandbox-api"}
MAX_HEADERS: Final = 256
MAX_SEGMENTS: Final = 2048  # PATH_MAX is 4096 bytes; routing takes time for each segment

# `//filesystem//tmp/x` comes from the JavaScript SDK (spec/sdk-clients.md 2), and in
# `/filesystem%2Ftmp/x` the escape doubles as the separator (spec/filesystem.md 2.2)
_DOUBLED_SLASH = re.compile(r"//+")
_JOINED = re.compile(
    r"/(filesystem(?:/tree|-find|-search|-content-search|-multipart/initiate)?"
    r"|watch/filesystem)%2[Ff]"
)
_FOR_APP = b"/port/"
_TREE_ROOT = "/filesystem/tree"  # means `/`, without a slash as well


def canonical_path(raw_path: str) -> str:
    """The raw path under which a request is routed; only known quirks of clients are changed."""
    if raw_path.startswith("//"):
        raw_path = _DOUBLED_SLASH.sub("/", raw_path, count=1)
    if joined := _JOINED.match(raw_path):
        return f"/{joined[1]}/%2F{raw_path[joined.end() :]}"
    return f"{_TREE_ROOT}/" if raw_path == _TREE_ROOT else raw_path


def canonical_message(message: RawRequestMessage) -> RawRequestMessage:
    """A request head that is routed by the canonical path; `path` stays as it was sent."""
    path = message.path
    if "//" not in path[:2] and "%2" not in path and not path.startswith(_TREE_ROOT):
        return message
    url = message.url
    path = canonical_path(url.raw_path)
    url = URL.build(path=path, query_string=url.raw_query_string, encoded=True)
    return message._replace(url=url)


class Connection(Receiver, RequestHandler):
    """One connection: aiohttp's, with JSON errors and a limit on the time a request head takes.

    Bodies that go on to an app are decoded by us, so that they can go on within the kernel.
    """

    __slots__ = ("_head_timer",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: a connection that says nothing is closed."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Half a request starts the clock, a whole one stops it; a malformed body fails at once."""
        if self.body is not None or data.find(_FOR_APP, 0, MAX_LINE_BYTES) >= 0:
            self.receive(data)
        else:
            super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._fail_current(str(self._messages[-1][0].message))
        if self._waiter is None or self._waiter.done():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._start_head_timer()

    def _fail_current(self, reason: str) -> None:
        """What came cannot be parsed: whoever reads the current request's body would wait for ever.

        aiohttp keeps the error for the next request, of which there is none.
        """
        request = self._current_request
        if request is not None and not request.content.is_eof():
            self._fail_body(request.content, reason)

    def _fail_body(self, content: StreamReader, reason: str) -> None:
        self._lingering_time = 0
        self.close()
        content.set_exception(web.RequestPayloadError(reason.strip().partition("\n")[0]))

    def _parse_head(self, data: bytes) -> tuple[RawRequestMessage | None, StreamReader]:
        count = self._request_count
        super().data_received(data)
        if count == self._request_count:
            return None, EMPTY_PAYLOAD
        message, payload = self._messages[-1]
        return (message if isinstance(message, RawRequestMessage) else None), payload

    def _renew_parser(self) -> None:
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is wrong below the middleware, as JSON; aiohttp calls it, then closes.

        Raises:
            ConnectionError: the client has gone or its answer has begun: nothing is sent.
        """
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionAbortedError from exc
        if status == web.HTTPBadRequest.status_code:
            status, text = _malformed(exc, message or "")
        else:
            log.error("unexpected error below the middleware", exc_info=exc)
            text = "internal error; the daemon's log says more"
        response = json_error(status, text)
        response.headers.extend(ERROR_HEADERS)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; what aiohttp refused before the middleware (`Expect`) becomes JSON."""
        if isinstance(resp, web.HTTPError):
            resp = http_error(resp)
            resp.headers.extend(ERROR_HEADERS)
        return await super().finish_response(request, resp, start_time)

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(HEADER_TIMEOUT_S, self.force_close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _malformed(exc: BaseException | None, message: str) -> tuple[int, str]:
    """Status and text for a request that aiohttp's parser refused."""
    if isinstance(exc, LineTooLong):
        if exc.args[1] == MAX_FIELD_BYTES:
            return 431, f"a header field is over {MAX_LINE_BYTES} bytes; send less in headers"
        return 414, f"the request line is over {MAX_LINE_BYTES} bytes; use a shorter path or query"
    if message.startswith("Too many headers"):
        return 431, f"more than {MAX_HEADERS} header fields; send fewer"
    reason = message.strip().partition("\n")[0].rstrip(":")
    return 400, f"malformed HTTP request: {reason or 'it cannot be parsed'}"


class Server(web.Server):
    """Makes connections of our class."""

    def __call__(self) -> RequestHandler:
        """One new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


def _drop(_: bytes) -> None:
    """DISABLE_REQUEST_LOGGING."""


class Runner(web.AppRunner):
    """Runs the application with our limits; tests and the daemon run it the same way.

    Args:
        app: the application.
        access_lines: takes each access line; None for none.
    """

    __slots__ = ()

    def __init__(self, app: web.Application, *, access_lines: AccessLines | None = None) -> None:
        super().__init__(
            app,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            handler_cancellation=True,  # a client that left must not keep its handler alive
            keepalive_timeout=KEEP_ALIVE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,  # a body is stored as it was sent, and no bomb goes off
            access_log_class=AccessLogger,
            access_log=access_lines,
        )
        app[ACCESS_LINES] = access_lines or _drop

    async def serve(self, listener: socket.socket, backlog: int) -> web.BaseSite:
        """Answer who connects, once the application has been set up.

        Args:
            listener: a bound socket.
            backlog: how many may wait to be accepted.
        """
        site = web.SockSite(self, listener, backlog=backlog)
        await site.start()
        return site

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        handle, make_request = plain.request_handler, plain.request_factory

        async def handle_routable(request: web.BaseRequest) -> web.StreamResponse:
            if request.version < HttpVersion10:
                raise web.HTTPBadRequest(text="the request line names no HTTP version")
            if request.rel_url.raw_path.count("/") > MAX_SEGMENTS:
                raise web.HTTPRequestURITooLong(
                    text=f"the path has more than {MAX_SEGMENTS} segments; no file is that deep"
                )
            return await handle(request)

        def make_canonical_request(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: RequestHandler,
            writer: AbstractStreamWriter,
            task: "asyncio.Task[None]",
        ) -> web.BaseRequest:
            return make_request(canonical_message(message), payload, protocol, writer, task)

        return Server(handle_routable, request_factory=make_canonical_request, **self._kwargs)
