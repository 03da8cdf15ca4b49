"""The methods of MCP, whatever carries the messages."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aiohttp import web

from sandbox_api.api.mcp import codegen, executing, files, ports, processes, reading, searches
from sandbox_api.api.mcp.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Json,
    Notification,
    Request,
    RpcError,
    error_reply,
    result_reply,
)
from sandbox_api.api.mcp.peers import Peer
from sandbox_api.api.mcp.resources import Resources
from sandbox_api.api.mcp.sessions import Sessions
from sandbox_api.api.mcp.tools import AnyTool, Call, find_tool
from sandbox_api.api.mcp.versions import (
    LOG_LEVELS,
    SERVER_INFO,
    SUPPORTED,
    asked_log_level,
    negotiate,
    stamp,
)
from sandbox_api.api.wire import CODEGEN

log = logging.getLogger("sandbox_api.mcp")

INSTRUCTIONS: Final = (
    "Tools for one sandbox: its files, commands and searches. Relative paths begin at the working "
    "directory (fsGetWorkingDirectory). A command that takes longer than the wait goes on in the "
    "background: call processWait or processGet with its name. Large results are cut, and say so."
)
_WITH_SESSIONS: Final = frozenset(
    {
        *("initialize", "ping"),
        *("resources/subscribe", "resources/unsubscribe"),
    }
)
_WITHOUT_SESSIONS: Final = frozenset({"server/discover"})
_CACHING: Final[Mapping[str, object]] = {"ttlMs": 0, "cacheScope": "public"}


class Server:
    """Everything that is served over MCP.

    Args:
        app: where the owners are found.
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self.sessions = Sessions()
        found: list[AnyTool] = [
            *executing.TOOLS,
            *processes.TOOLS,
            *files.TOOLS,
            *reading.TOOLS,
            *searches.TOOLS,
            *ports.TOOLS,
        ]
        if app[CODEGEN].enabled:
            found += codegen.TOOLS
        self.tools: Mapping[str, AnyTool] = {
            tool.name: tool for tool in sorted(found, key=lambda tool: tool.name)
        }
        resources = Resources(app)
        self._told: list[Json] | None = None
        self._methods: Mapping[str, Callable[[Request, Peer], Awaitable[Json]]] = {
            "initialize": self._initialize,
            "ping": self._ping,
            "server/discover": self._discover,
            "logging/setLevel": self._set_level,
            "completion/complete": self._complete,
            "prompts/list": self._list_prompts,
            "resources/list": resources.list_page,
            "resources/templates/list": resources.list_templates,
            "resources/read": resources.read,
            "resources/subscribe": resources.subscribe,
            "resources/unsubscribe": resources.unsubscribe,
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
        }

    def reports(self, request: Request) -> bool:
        """Whether the client asked to be told how a request goes, and this one can tell."""
        if request.method != "tools/call":
            return False
        tool = self.tools.get(str(request.params.get("name")))
        return tool is not None and tool.reports and _progress_token(request) is not None

    async def run(self, request: Request, peer: Peer) -> Json | None:
        """The reply to a request; None where the client has cancelled it, so that none is due.

        A client that merely leaves cancels the caller of this, which is raised.
        """
        try:
            return await asyncio.create_task(self._answer(request, peer))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None

    async def _answer(self, request: Request, peer: Peer) -> Json:
        """The reply to a request."""
        try:
            result = await self._method(request, peer)(request, peer)
        except RpcError as exc:
            return error_reply(request.id, exc)
        except Exception:
            log.exception("MCP request failed: %s", request.method[:100])
            error = RpcError(INTERNAL_ERROR, f"internal error in {request.method:.100}")
            return error_reply(request.id, error)
        return result_reply(request.id, stamp(result) if peer.modern else result)

    def take(self, told: Notification, peer: Peer) -> None:
        """Take note of what a client tells."""
        if told.method == "notifications/cancelled" and peer.session is not None:
            peer.session.cancel(told.params.get("requestId"))

    def _method(self, request: Request, peer: Peer) -> Callable[[Request, Peer], Awaitable[Json]]:
        method = self._methods.get(request.method)
        of_other_kind = _WITH_SESSIONS if peer.modern else _WITHOUT_SESSIONS
        if method is None or request.method in of_other_kind:
            raise RpcError(METHOD_NOT_FOUND, f'method not found: "{request.method:.100}"')
        return method

    async def _initialize(self, request: Request, peer: Peer) -> Json:
        version = negotiate(request.params.get("protocolVersion"))
        if peer.session is None:
            peer.session = self.sessions.begin(version)
        peer.session.version = version
        return {
            "capabilities": _capabilities(subscribe=True),
            "instructions": INSTRUCTIONS,
            "protocolVersion": version,
            "serverInfo": SERVER_INFO,
        }

    async def _discover(self, _: Request, __: Peer) -> Json:
        return {
            **_CACHING,
            "supportedVersions": list(SUPPORTED),
            "capabilities": _capabilities(subscribe=False),
            "instructions": INSTRUCTIONS,
        }

    async def _ping(self, _: Request, __: Peer) -> Json:
        return {}

    async def _set_level(self, request: Request, peer: Peer) -> Json:
        level = request.params.get("level")
        if level not in LOG_LEVELS:
            raise RpcError(INVALID_PARAMS, f"invalid level {level!r:.40}: {', '.join(LOG_LEVELS)}")
        if peer.session is not None:
            peer.session.log_level = str(level)
        return {}

    async def _complete(self, _: Request, __: Peer) -> Json:
        raise RpcError(INVALID_PARAMS, "there is nothing to complete: no prompt takes arguments")

    async def _list_prompts(self, request: Request, _: Peer) -> Json:
        _refuse_cursor(request)
        return {"prompts": [], **_CACHING}

    async def _list_tools(self, request: Request, _: Peer) -> Json:
        _refuse_cursor(request)
        if self._told is None:  # building schemas takes long
            self._told = await asyncio.to_thread(_tell, list(self.tools.values()))
        return {"tools": self._told, **_CACHING}

    async def _call_tool(self, request: Request, peer: Peer) -> Json:
        tool = find_tool(self.tools, request.params)
        session = peer.session
        log_level = "info" if session is None else session.log_level
        call = Call(
            app=self._app,
            headers=peer.headers,
            notify=peer.notify if self.reports(request) else None,
            progress_token=_progress_token(request),
            log_level=asked_log_level(request) if peer.modern else log_level,
            cancelled=peer.modern,
        )
        arguments = request.params.get("arguments")
        if session is None:
            return await tool.call(call, arguments)
        with session.running(request.id, call):
            return await tool.call(call, arguments)

    def close(self) -> None:
        """The daemon stops."""
        self.sessions.end_all()


def _tell(tools: Sequence[AnyTool]) -> list[Json]:
    return [tool.told for tool in tools]


def _capabilities(*, subscribe: bool) -> Json:
    """What a client can count on; a subscription needs a session."""
    resources = {"subscribe": subscribe, "listChanged": False}
    return {"logging": {}, "resources": resources, "tools": {"listChanged": False}}


def _progress_token(request: Request) -> str | int | None:
    token = request.meta.get("progressToken")
    return token if isinstance(token, str | int) and not isinstance(token, bool) else None


def _refuse_cursor(request: Request) -> None:
    if request.params.get("cursor"):
        raise RpcError(INVALID_PARAMS, "invalid params: there is only one page, send no cursor")
