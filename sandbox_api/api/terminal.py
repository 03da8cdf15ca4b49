"""Terminals over HTTP: `/terminal` (spec/system.md 14).

A client types and resizes with JSON in text or binary frames, and gets output as JSON in text
frames. With `?encoding=binary` the bytes themselves go both ways in binary frames, and text frames
are for the rest. When the shell ends, the last frame says how, and the connection is closed. A
client that cannot draw so fast says `{"type":"pause"}` and later `{"type":"resume"}`.
"""

import asyncio
import codecs
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.http import WSCloseCode, WSMessage, WSMsgType

from sandbox_api.api.assets import asset_reply
from sandbox_api.api.audit import audit
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.terminal import TerminalSession, TerminalSessionsReply
from sandbox_api.api.wire import SHUTDOWN, TERMINALS, json_reply
from sandbox_api.core.paths import printable
from sandbox_api.core.terminals import Terminal, TerminalSpec, View
from sandbox_api.core.terminals.keystrokes import Keystrokes
from sandbox_api.core.terminals.terminals import DEFAULT_IDENTIFIER, DEFAULT_SIZE
from sandbox_api.errors import InvalidError, SandboxError
from sandbox_api.log import timestamp

MAX_MESSAGE_BYTES: Final = 1 << 20
HEARTBEAT_S: Final = 30.0
MAX_SIDE: Final = 65535
ASSETS: Final = frozenset(
    {
        "addon-fit.js",
        "addon-unicode11.js",
        "addon-web-links.js",
        "page.css",
        "page.js",
        "xterm.css",
        "xterm.js",
    }
)


class Connection:
    """One WebSocket on one terminal.

    Args:
        request: the request that opened it; audit lines tell its identity headers.
        socket: the connection.
        terminal: what it looks at.
        binary: whether bytes go as they are.
    """

    def __init__(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        terminal: Terminal,
        *,
        binary: bool,
    ) -> None:
        self._request = request
        self._socket = socket
        self._terminal = terminal
        self._binary = binary
        self._typed = Keystrokes()
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def serve(self, view: View) -> None:
        """Pass on what comes from both sides, until one of them ends or the daemon stops."""
        sending = asyncio.ensure_future(self._send(view))
        receiving = asyncio.ensure_future(self._receive())
        stopping = asyncio.ensure_future(self._request.app[SHUTDOWN].began.wait())
        tasks = (sending, receiving, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not sending.cancelled():
            await self._socket.close(code=WSCloseCode.OK, message=b"the shell has ended")
        elif not stopping.cancelled():
            await self._socket.close(code=WSCloseCode.GOING_AWAY, message=b"the daemon stops")

    async def _send(self, view: View) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        with suppress(ConnectionError):  # the client has left: who receives sees it too
            while (data := await self._next(view)) is not None:
                if self._binary:
                    await self._socket.send_bytes(data)
                elif text := decode(data):
                    await send_json(self._socket, "output", data=text)
            if rest := decode(b"", final=True):
                await send_json(self._socket, "output", data=rest)
            if (how := self._terminal.exit) is not None:
                await send_json(self._socket, "exit", exitCode=how.code, signal=how.signal)

    async def _next(self, view: View) -> bytes | None:
        await self._wanted.wait()
        return await view.read()

    async def _receive(self) -> None:
        async for message in self._socket:
            await self._take(message)

    async def _take(self, message: WSMessage) -> None:
        """One message; what is malformed is ignored, as old pages expect."""
        if self._binary and message.type is WSMsgType.BINARY:
            await self._type(message.data)
            return
        match _parse(message):
            case {"type": "input", "data": str() as text}:
                await self._type(text.encode("utf-8", "replace"))
            case {"type": "resize", "cols": int() as cols, "rows": int() as rows}:
                if 0 < cols <= MAX_SIDE and 0 < rows <= MAX_SIDE:
                    self._terminal.resize(cols, rows)
            case {"type": "pause"}:
                self._wanted.clear()
            case {"type": "resume"}:
                self._wanted.set()
            case _:
                pass

    async def _type(self, data: bytes) -> None:
        for line in self._typed.type(data):
            if not self._terminal.hides_input:
                audit(
                    self._request,
                    "terminal_command",
                    session_id=self._terminal.identifier,
                    command=line,
                )
        await self._terminal.write(data)


async def connect(request: web.Request) -> web.StreamResponse:
    """Attach to a session, or begin one."""
    socket = web.WebSocketResponse(
        heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES, compress=False
    )
    binary = _binary(request)
    try:
        await socket.prepare(request)
    except web.HTTPBadRequest as exc:
        raise web.HTTPBadRequest(
            text=f"Bad Request: {exc.text}; a WebSocket client is needed",
            headers={"Sec-WebSocket-Version": "13"},
        ) from None
    try:
        terminal, view = await request.app[TERMINALS].attach(_spec(request))
    except SandboxError as exc:
        await send_json(socket, "error", data=exc.message)
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"no session")
        return socket
    who = {"session_id": terminal.identifier}
    shell = terminal.shell
    audit(request, "terminal_connect", shell=shell.program, working_dir=shell.directory, **who)
    try:
        await Connection(request, socket, terminal, binary=binary).serve(view)
    finally:
        view.close()
        audit(request, "terminal_disconnect", **who)
    return socket


async def send_json(socket: web.WebSocketResponse, kind: str, **fields: object) -> None:
    """One message to a client: a line of JSON."""
    text = json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
    await socket.send_str(text + "\n")


async def list_sessions(request: web.Request) -> web.Response:
    """Every session, in order of start."""
    sessions = [_session(terminal) for terminal in request.app[TERMINALS].list()]
    return json_reply(TerminalSessionsReply(sessions=sessions))


async def end_session(request: web.Request) -> web.Response:
    """End a session and everything in it; its clients are told."""
    await request.app[TERMINALS].end(request.match_info["id"])
    return json_reply(PathReply(path="", message="Terminal session ended successfully"))


async def get_page(request: web.Request) -> web.Response:
    """The page with a terminal in it."""
    return await asset_reply(request, "terminal/index.html")


async def get_asset(request: web.Request) -> web.Response:
    """What the page loads."""
    name = request.match_info["asset"]
    if name not in ASSETS:
        raise web.HTTPNotFound
    return await asset_reply(request, f"terminal/{name}")


async def head(_: web.Request) -> web.Response:
    """The route exists."""
    return web.Response()


def _session(terminal: Terminal) -> TerminalSession:
    return TerminalSession(
        session_id=terminal.identifier,
        pid=terminal.shell.child.pid,
        shell=printable(terminal.shell.program),
        working_dir=printable(terminal.shell.directory),
        cols=terminal.cols,
        rows=terminal.rows,
        clients=terminal.clients,
        started_at=timestamp(int(terminal.started_at)),
        last_active_at=timestamp(int(terminal.active_at)),
    )


def _spec(request: web.Request) -> TerminalSpec:
    query = request.query
    return TerminalSpec(
        identifier=query.get("sessionId", DEFAULT_IDENTIFIER),
        shell=query.get("shell", ""),
        working_dir=query.get("workingDir", ""),
        cols=_side(query, "cols", DEFAULT_SIZE[0]),
        rows=_side(query, "rows", DEFAULT_SIZE[1]),
    )


def _side(query: Mapping[str, str], name: str, default: int) -> int:
    """A width or a height; anything that is none is the default, as in the reference."""
    text = query.get(name, "")
    if text.isascii() and text.isdigit() and int(text[:6]) <= MAX_SIDE:
        return int(text)
    return default


def _binary(request: web.Request) -> bool:
    encoding = request.query.get("encoding", "json")
    if encoding not in {"json", "binary"}:
        raise InvalidError(f"invalid encoding '{encoding:.40}': json or binary is expected")
    return encoding == "binary"


def _parse(message: WSMessage) -> object:
    try:
        return json.loads(message.data)
    except (ValueError, TypeError, RecursionError):
        return None


ROUTES = (
    web.get("/terminal", get_page, allow_head=True),
    web.get("/terminal/assets/{asset}", get_asset),
    web.get("/terminal/ws", connect, allow_head=False),
    web.head("/terminal/ws", head),
    web.get("/terminal/sessions", list_sessions, allow_head=True),
    web.delete("/terminal/sessions/{id:(?s:.+)}", end_session),
)
