"""MCP on stdin and stdout, a message per line: for clients that start the server themselves."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sandbox_api.api.mcp.jsonrpc import (
    INVALID_REQUEST,
    UNSUPPORTED_VERSION,
    Json,
    Message,
    Notification,
    Parsed,
    Request,
    RpcError,
    error_reply,
    notification,
    parse,
)
from sandbox_api.api.mcp.peers import Peer
from sandbox_api.api.mcp.routes import ENDPOINT
from sandbox_api.api.mcp.sessions import Session
from sandbox_api.api.mcp.versions import ASSUMED, MODERN, SUPPORTED, is_modern, told_version
from sandbox_api.api.wire import dump_json
from sandbox_api.errors import FailedError

if TYPE_CHECKING:
    from sandbox_api.api.mcp.server import Server

MAX_LINE_BYTES: Final = 4 << 20
READ_BYTES: Final = 256 * 1024
MOST_AT_ONCE: Final = 100
_LOOK_AGAIN_S: Final = 3600.0


async def serve_stdio(app: web.Application, stop: asyncio.Event) -> None:
    """Answer until the end of stdin, and what was asked for before it; or until told to stop.

    Args:
        app: started.
        stop: set when it is to end at once.
    """
    stdin, stdout = await _open_stdin(), await _open_stdout()
    connection = _Connection(await app[ENDPOINT].server(), stdout)
    work = asyncio.create_task(connection.run(stdin))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in (work, stopped):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await work


class _Connection:
    """The one client."""

    def __init__(self, server: "Server", stdout: asyncio.StreamWriter) -> None:
        self._server = server
        self._session: Session = self._server.sessions.begin(ASSUMED)
        self._stdout = stdout
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def run(self, stdin: asyncio.StreamReader) -> None:
        """Answer each line as soon as its answer is there."""
        telling = asyncio.create_task(self._tell())
        try:
            async with asyncio.TaskGroup() as group:
                async for line in _lines(stdin):
                    await self._turns.acquire()
                    group.create_task(self._take(line))
        finally:
            telling.cancel()
            self._server.sessions.end(self._session)

    async def _tell(self) -> None:
        stream = self._session.open_stream()
        while (messages := await self._session.next(stream, _LOOK_AGAIN_S)) is not None:
            for message in messages:
                await self._send(message)

    async def _take(self, line: bytes | None) -> None:
        try:
            await self._answer(line)
        finally:
            self._turns.release()

    async def _answer(self, line: bytes | None) -> None:
        try:
            messages, batch = _parse(line)
        except RpcError as exc:
            await self._send(error_reply(None, exc))
            return
        answers = [await self._answer_one(message) for message in messages]
        told = [answer for answer in answers if answer is not None]
        if batch and told:
            await self._write(b"[" + b",".join(map(dump_json, told)) + b"]\n")
        elif told:
            await self._send(told[0])

    async def _answer_one(self, message: Message | RpcError) -> Json | None:
        peer = Peer(session=self._session, notify=self._notify)
        if isinstance(message, RpcError):
            return error_reply(None, message)
        if isinstance(message, Notification):
            self._server.take(message, peer)
        if not isinstance(message, Request):
            return None
        peer.modern = is_modern(None, message)
        if peer.modern and (version := told_version(message)) != MODERN:
            data = {"supported": list(SUPPORTED), "requested": version}
            error = RpcError(UNSUPPORTED_VERSION, "unsupported protocol version", data)
            return error_reply(message.id, error)
        return await self._server.run(message, peer)

    async def _notify(self, method: str, params: Mapping[str, object]) -> None:
        await self._send(notification(method, params))

    async def _send(self, message: Json) -> None:
        await self._write(dump_json(message) + b"\n")

    async def _write(self, line: bytes) -> None:
        with suppress(ConnectionError):  # who does not listen any more ends stdin too
            self._stdout.write(line)
            await self._stdout.drain()


def _parse(line: bytes | None) -> Parsed:
    if line is None:
        raise RpcError(INVALID_REQUEST, f"a line is over {MAX_LINE_BYTES} bytes")
    return parse(line)


async def _lines(stdin: asyncio.StreamReader) -> AsyncIterator[bytes | None]:
    """The lines that are not empty; None for one that is too long."""
    left, skipping = bytearray(), False
    while chunk := await stdin.read(READ_BYTES):
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            line = bytes(left + part)
            left.clear()
            if skipping or len(line) > MAX_LINE_BYTES:
                yield None
            elif line.strip():
                yield line
            skipping = False
        if not skipping:
            left += rest
        if len(left) > MAX_LINE_BYTES:
            left.clear()
            skipping = True
    if left.strip():
        yield bytes(left)


async def _open_stdin() -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_BYTES)
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    except (ValueError, PermissionError):  # a regular file, which never makes anyone wait
        reader.feed_data(await asyncio.to_thread(sys.stdin.buffer.read))
        reader.feed_eof()
    return reader


async def _open_stdout() -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, sys.stdout.buffer
        )
    except ValueError:
        raise FailedError("stdout is a regular file; a pipe or a socket is needed") from None
    return asyncio.StreamWriter(transport, protocol, None, loop)
