"""JSON-RPC 2.0: bytes to messages, results and errors to values (jsonrpc.org/specification)."""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sandbox_api.api.wire import decode_json

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_NOT_FOUND: Final = -32002
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022

_ENDLESS: Final = (math.inf, -math.inf)  # what 1e400 is read as
MAX_BATCH: Final = 100
MAX_ID_CHARACTERS: Final = 1024

Json = dict[str, Any]
Id = str | int | float


class RpcError(Exception):
    """A request that cannot be answered by a result.

    Args:
        code: of JSON-RPC or of MCP.
        message: what was wrong, with which value.
        data: more, as the code defines it.
    """

    def __init__(self, code: int, message: str, data: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Request(NamedTuple):
    """What wants an answer."""

    id: Id
    method: str
    params: Json

    @property
    def meta(self) -> Json:
        """`_meta` of the parameters; empty where there is none."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}


class Notification(NamedTuple):
    """What wants none."""

    method: str
    params: Json


class Reply(NamedTuple):
    """An answer to a request of ours; we send none."""


Message = Request | Notification | Reply


class Parsed(NamedTuple):
    """The messages of one body; each that is broken is its error."""

    messages: list[Message | RpcError]
    batch: bool


def parse(body: bytes) -> Parsed:
    """One body as messages.

    Raises:
        RpcError: it is no JSON, or neither a message nor a batch.
    """
    try:
        value = decode_json(body)
    except ValueError as exc:
        raise RpcError(PARSE_ERROR, f"malformed payload: {exc}") from None
    if not isinstance(value, list):
        return Parsed([_message(value)], batch=False)
    if not 0 < len(value) <= MAX_BATCH:
        raise RpcError(
            INVALID_REQUEST, f"invalid request: a batch holds 1 to {MAX_BATCH}, not {len(value)}"
        )
    messages: list[Message | RpcError] = []
    for item in value:
        try:
            messages.append(_message(item))
        except RpcError as exc:
            messages.append(exc)
    return Parsed(messages, batch=True)


def _message(value: object) -> Message:
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "malformed payload: a message is a JSON object")
    if value.get("jsonrpc") != "2.0":
        tag = value.get("jsonrpc", "")
        raise RpcError(
            INVALID_REQUEST,
            f'malformed payload: invalid message version tag "{tag!s:.40}"; expected "2.0"',
        )
    if "method" not in value:
        return _reply(value)
    method, params = value["method"], value.get("params")
    if not isinstance(method, str) or not method:
        raise RpcError(INVALID_REQUEST, "invalid request: the method must be a string")
    if params is not None and not isinstance(params, dict):
        raise RpcError(INVALID_REQUEST, "invalid request: params must be an object")
    if value.get("id") is None:
        return _notification(method, params)
    if method == "tools/call" and params is None:
        raise RpcError(INVALID_REQUEST, 'invalid request: missing required "params"')
    return Request(_id(value["id"]), method, params or {})


def _reply(value: Json) -> Reply:
    if value.get("id") is None and not {"result", "error"} & value.keys():
        raise RpcError(INVALID_REQUEST, "invalid request: it has neither a method nor an id")
    return Reply()


def _id(value: object) -> Id:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in _ENDLESS:
        raise RpcError(INVALID_REQUEST, "invalid request: the id must be a string or a number")
    if isinstance(value, str) and len(value) > MAX_ID_CHARACTERS:
        raise RpcError(
            INVALID_REQUEST, f"invalid request: the id is over {MAX_ID_CHARACTERS} characters"
        )
    return value


def _notification(method: str, params: Json | None) -> Notification:
    if not method.startswith("notifications/"):
        raise RpcError(INVALID_REQUEST, f'invalid request: missing id for "{method:.100}"')
    return Notification(method, params or {})


def result_reply(number: Id, result: Mapping[str, object]) -> Json:
    """The answer to a request."""
    return {"jsonrpc": "2.0", "id": number, "result": result}


def error_reply(number: Id | None, exc: RpcError) -> Json:
    """The answer to a request that failed; None where it is not known which."""
    error: Json = {"code": exc.code, "message": exc.message}
    if exc.data is not None:
        error["data"] = exc.data
    return {"jsonrpc": "2.0", "id": number, "error": error}


def notification(method: str, params: Mapping[str, object]) -> Json:
    """What we tell without being asked."""
    return {"jsonrpc": "2.0", "method": method, "params": params}
