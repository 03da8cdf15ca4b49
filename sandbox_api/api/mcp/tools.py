"""What a tool is, and how one is called."""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from aiohttp import web
from pydantic import ValidationError

from sandbox_api.api.audit import audit_headers
from sandbox_api.api.mcp.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, Id, Json, RpcError
from sandbox_api.api.mcp.schemas import Arguments, Result, explain, input_schema, output_schema
from sandbox_api.api.mcp.versions import LOG_LEVELS
from sandbox_api.errors import SandboxError

log = logging.getLogger("sandbox_api.mcp")

A = TypeVar("A", bound=Arguments)
R = TypeVar("R", bound=Result)
Notify = Callable[[str, Mapping[str, object]], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """One call of a tool, and whom it tells how it goes.

    Attributes:
        app: where the owners are found.
        headers: of the request, for the audit line.
        notify: sends a notification to the client; None where nobody asked for any.
        progress_token: what the client knows its progress by; None where it did not ask.
        log_level: the least level that the client wants to be told; None for nothing.
        cancelled: whether its end before its time is what the client wants: it has cancelled it,
            and not merely lost its connection.
    """

    app: web.Application
    headers: Mapping[str, str]
    notify: Notify | None = None
    progress_token: Id | None = None
    log_level: str | None = "info"
    cancelled: bool = False

    def audit(self, action: str, **extras: object) -> None:
        """Write an audit line."""
        audit_headers(self.headers, action, via="mcp", **extras)

    async def tell_progress(self, progress: float, total: float | None, message: str) -> None:
        """Tell how far it is; the number has to grow from call to call."""
        if self.notify is None or self.progress_token is None:
            return
        params = {"progressToken": self.progress_token, "progress": progress, "message": message}
        await self.notify(
            "notifications/progress", params if total is None else {**params, "total": total}
        )

    async def tell_log(self, level: str, logger: str, data: object) -> None:
        """Tell a line of log, if its level is one that the client wants."""
        if self.notify is None or self.log_level is None:
            return
        if LOG_LEVELS.index(level) < LOG_LEVELS.index(self.log_level):
            return
        params = {"level": level, "logger": logger, "data": data}
        await self.notify("notifications/message", params)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What a client may assume of a tool (the annotations of MCP).

    Attributes:
        title: for people.
        read_only: it changes nothing.
        destructive: it may destroy what was there.
        idempotent: a second call with the same arguments changes nothing more.
        open_world: it reaches beyond this sandbox.
    """

    title: str
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False

    def told(self) -> Json:
        """As clients read it."""
        told: Json = {"title": self.title, "readOnlyHint": self.read_only}
        if not self.read_only:
            told |= {"destructiveHint": self.destructive, "idempotentHint": self.idempotent}
        return {**told, "openWorldHint": self.open_world}


@dataclass(frozen=True)
class Tool(Generic[A, R]):
    """One tool.

    Attributes:
        name: as clients call it.
        description: what it is for; models choose by it.
        arguments: what it takes.
        result: what it gives.
        run: does it; a SandboxError is a failure that the model is told.
        hints: what a client may assume.
        reports: whether it can tell how it goes.
    """

    name: str
    description: str
    arguments: type[A]
    result: type[R]
    run: Callable[[Call, A], Awaitable[R]]
    hints: Hints
    reports: bool = False

    @cached_property
    def told(self) -> Json:
        """Its entry in `tools/list`."""
        return {
            "annotations": self.hints.told(),
            "description": self.description,
            "inputSchema": input_schema(self.arguments),
            "name": self.name,
            "outputSchema": output_schema(self.result),
        }

    async def call(self, call: Call, arguments: object) -> Json:
        """Run it; whatever goes wrong is its result, or an RpcError for what is our fault."""
        started = time.perf_counter()
        checked = self._check({} if arguments is None else arguments)
        if isinstance(checked, str):
            self._log("failed", started, "invalid arguments")  # they may hold a secret
            return failure(checked)
        try:
            result = await self.run(call, checked)
        except SandboxError as exc:
            self._log("failed", started, exc.message)
            return failure(exc.message)
        except Exception as exc:
            log.exception("Tool call failed: %s", self.name)
            raise RpcError(INTERNAL_ERROR, f"internal error in {self.name}") from exc
        self._log("completed", started)
        return success(result)

    def _check(self, arguments: object) -> A | str:
        """The arguments, or what is wrong with them."""
        if not isinstance(arguments, dict):
            return 'validating "arguments": unmarshaling arguments: an object is expected'
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as exc:
            return explain(exc, self.told["inputSchema"])

    def _log(self, outcome: str, started: float, error: str = "") -> None:
        duration_ms = round((time.perf_counter() - started) * 1000)
        fields = {"tool": self.name, "duration_ms": duration_ms}
        extra = {**fields, "error": error} if error else fields
        log.info("Tool call %s: %s", outcome, self.name, extra=extra)


AnyTool = Tool[Any, Any]


def success(result: Result) -> Json:
    """What a client is told of a result, as a value and as a text with sorted keys."""
    value = json.loads(result.__pydantic_serializer__.to_json(result, by_alias=True))
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {"content": [{"type": "text", "text": text}], "structuredContent": value}


def failure(message: str) -> Json:
    """What a model is told when it did not work."""
    return {"content": [{"type": "text", "text": message}], "isError": True}


@contextmanager
def failing(text: str, instead_of: str = "") -> Iterator[None]:
    """Begin the text of each failure with what the tool was to do.

    Args:
        text: such as `failed to read file`.
        instead_of: how the core begins it, which would say the same twice.
    """
    try:
        yield
    except SandboxError as exc:
        reason = exc.message
        if instead_of:
            reason = reason.removeprefix(f"{instead_of}: ")
        raise type(exc)(f"{text}: {reason}", exc.fields) from exc


def find_tool(tools: Mapping[str, AnyTool], params: Json) -> AnyTool:
    """The tool that a `tools/call` names.

    Raises:
        RpcError: there is none.
    """
    name = params.get("name")
    if not isinstance(name, str) or name not in tools:
        raise RpcError(INVALID_PARAMS, f'unknown tool "{name!s:.100}"')
    return tools[name]
