"""Connections to apps in the sandbox: one request out, one answer in, bytes as they are.

A connection is used again within a second, by requests that ask for nothing but an answer (GET
without a body): a page loads its hundred files over a few connections. If the app has closed it
meanwhile, such a request is made anew on a fresh one; no other request ever has to be. A second is
less than any known server waits before it closes.
"""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.client_exceptions import ClientError, ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from sandbox_api.api.bodies import LEAST_READ_BYTES, Receiver
from sandbox_api.api.relay import relay
from sandbox_api.errors import UnavailableError, UpstreamError, os_reason

# An app on 0.0.0.0 or `::` answers on one of these as well.
ADDRESSES: Final = ("127.0.0.1", "::1")
CONNECT_TIMEOUT_S: Final = 5.0
IDLE_S: Final = 1.0
MAX_IDLE: Final = 32
BUFFER_BYTES: Final = 256 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 256
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EADDRNOTAVAIL})


class NobodyListensError(UpstreamError):
    """No app accepts connections on the port, on any loopback address."""


class StaleConnectionError(Exception):
    """The app has closed a connection that was to be used again, before it answered."""


class AppConnection(Receiver, ResponseHandler):
    """aiohttp's client side of a connection; where it knows its end, the body is decoded by us."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._latest: tuple[RawResponseMessage | None, StreamReader] = (None, EMPTY_PAYLOAD)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read little at first: behind the head there may be small chunks."""
        super().connection_made(transport)
        transport.max_size = LEAST_READ_BYTES  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """What the app sends."""
        reading = self._payload is not None and not self._payload.is_eof()
        if self.body is not None or not (reading or self._upgraded):
            self.receive(data)
        else:
            super().data_received(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """A message whose head is complete."""
        self._latest = data
        super().feed_data(data, size)

    def _parse_head(self, data: bytes) -> tuple[RawResponseMessage | None, StreamReader]:
        self._latest = (None, EMPTY_PAYLOAD)
        super().data_received(data)
        return self._latest

    def _renew_parser(self) -> None:
        self._parser = self._payload = None  # the next request has its own

    def _fail_body(self, content: StreamReader, reason: str) -> None:
        content.set_exception(ClientPayloadError(reason))
        self.close()


class Upstream:
    """One exchange with an app.

    Args:
        protocol: aiohttp's client side of the connection.
        port: where the app listens, for texts.
        reused: whether the connection has served another request before.
    """

    def __init__(self, protocol: AppConnection, port: int, *, reused: bool) -> None:
        self.protocol = protocol
        self.writer = StreamWriter(protocol, asyncio.get_running_loop())
        self._port = port
        self._untouched = reused

    def send_head(self, head: bytes, *, method: str) -> None:
        """Begin the request.

        Args:
            head: from the request line to the empty line.
            method: it decides whether the answer has a body.
        """
        self.protocol.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=BUFFER_BYTES,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )
        if self.protocol.transport is not None:
            self.protocol.transport.write(head)

    async def send_body(self, source: Receiver, body: StreamReader, *, chunked: bool) -> None:
        """Send the request's body as it comes.

        An app that takes no more of it may have answered already: that is no error here. When the
        client's part is malformed, whoever waits for the answer is told.

        Args:
            source: the client's connection.
            body: what has been read of it.
            chunked: whether it goes on in chunks.
        """
        if chunked:
            self.writer.enable_chunking()
        body.set_read_chunk_size(BUFFER_BYTES)
        try:
            await relay(source, body, self.writer)
        except ConnectionError:
            return
        except (HttpProcessingError, web.RequestPayloadError) as exc:
            self.protocol.set_exception(web.RequestPayloadError(str(exc)), exc)

    async def answer(self) -> tuple[RawResponseMessage, StreamReader]:
        """The next answer's head and its body; after an interim one, call again.

        Raises:
            UpstreamError: the app has closed the connection, or speaks no HTTP.
            StaleConnectionError: it had done so before this request came.
            web.RequestPayloadError: the request's own body is malformed.
        """
        try:
            message, body = await self.protocol.read()
        except HttpProcessingError as exc:
            reason = (exc.message or "").strip().partition("\n")[0].rstrip(":")
            raise UpstreamError(
                f"the app on port {self._port} sent no valid HTTP answer: {reason:.200}"
            ) from None
        except (ClientError, OSError):
            if self._untouched:
                raise StaleConnectionError from None
            raise UpstreamError(
                f"the app on port {self._port} closed the connection before it answered; "
                "its output may tell why"
            ) from None
        self._untouched = False
        return message, body


class Apps:
    """The way to all apps, and the connections to them that are free for a moment."""

    def __init__(self) -> None:
        self._idle: dict[AppConnection, tuple[int, asyncio.TimerHandle]] = {}

    @asynccontextmanager
    async def connect(self, port: int, *, repeatable: bool) -> AsyncIterator[Upstream]:
        """A connection to the app on a port, on whichever loopback address it listens.

        It is dropped when the context is left by an error (the client has gone).

        Args:
            port: of the app.
            repeatable: whether the request can be made twice. Only then the connection may have
                served others, and may serve others later.

        Raises:
            NobodyListensError: all addresses refuse.
            UpstreamError: the app does not accept the connection in time.
            UnavailableError: no descriptors are left.
        """
        idle = self._take(port) if repeatable else None
        protocol = await _connect(port) if idle is None else idle
        try:
            yield Upstream(protocol, port, reused=idle is not None)
        except BaseException:
            protocol.abort()
            raise
        if repeatable and protocol.is_connected() and not protocol.should_close:
            self._keep(port, protocol)
        else:
            protocol.close()

    def _take(self, port: int) -> AppConnection | None:
        """The connection that was used last; one that the app has closed is none."""
        for protocol in reversed([one for one, kept in self._idle.items() if kept[0] == port]):
            self._idle.pop(protocol)[1].cancel()
            if protocol.is_connected() and not protocol.should_close:
                return protocol
            protocol.close()
        return None

    def _keep(self, port: int, protocol: AppConnection) -> None:
        if len(self._idle) >= MAX_IDLE:
            self._drop(next(iter(self._idle)))
        timer = asyncio.get_running_loop().call_later(IDLE_S, self._drop, protocol)
        self._idle[protocol] = port, timer

    def _drop(self, protocol: AppConnection) -> None:
        self._idle.pop(protocol)[1].cancel()
        protocol.close()

    def close(self) -> None:
        """Let all go."""
        for protocol in list(self._idle):
            self._drop(protocol)


async def _connect(port: int) -> AppConnection:
    refusal: OSError | None = None
    for address in ADDRESSES:
        try:
            return await _connect_to(address, port)
        except TimeoutError:
            raise UpstreamError(
                f"the app on port {port} accepts no connection: its queue is full for "
                f"{CONNECT_TIMEOUT_S:g} s; it may hang"
            ) from None
        except OSError as exc:
            if exc.errno in _SHORTAGES and address == ADDRESSES[0]:
                raise UnavailableError(f"connect to port {port}: {os_reason(exc)}") from None
            refusal = refusal or exc
    raise NobodyListensError(f"port {port} refuses connections") from refusal


async def _connect_to(address: str, port: int) -> AppConnection:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        transport, protocol = await loop.create_connection(
            lambda: AppConnection(loop), address, port
        )
    if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
        transport.abort()  # the kernel picked the very port that nobody listens on (RFC 9293, 3.5)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
    return protocol
