"""Between HTTP and values: bodies in, replies out, and where each service is found.

JSON bodies are read whatever their Content-Type says (every entrypoint uses `curl -d`), leniently
where the reference is lenient: keys in any case, `null` is absent, bytes after the first JSON value
are ignored, broken UTF-8 becomes U+FFFD (spec/filesystem.md 1).
"""

import json
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.core.identity import FileThreads
from sandbox_api.errors import InvalidError, TooLargeError
from sandbox_api.settings import Settings

M = TypeVar("M", bound=WireModel)

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
FILE_THREADS: web.AppKey[FileThreads] = web.AppKey("file_threads", FileThreads)

JSON_TYPE = "application/json; charset=utf-8"
READ_BYTES = 256 * 1024

_DECODER = json.JSONDecoder()
_JSON_SPACE = " \t\r\n"


async def read_body(request: web.Request, max_bytes: int, way_around: str) -> bytes:
    """The whole body, with a cap.

    Args:
        request: the request.
        max_bytes: the most that is kept in memory.
        way_around: what the client can do instead; ends the error's text.

    Raises:
        TooLargeError: the body is larger; what is left of it is not read.
    """
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise TooLargeError(f"request body of {declared} bytes is over {max_bytes}; {way_around}")
    body = bytearray()
    while chunk := await request.content.read(READ_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise TooLargeError(f"request body is over {max_bytes} bytes; {way_around}")
    return bytes(body)


async def read_json(request: web.Request, model: type[M], way_around: str = "send less") -> M:
    """The body as a wire model.

    Args:
        request: the request.
        model: what the body must be.
        way_around: what a client with a larger body can do instead.

    Raises:
        InvalidError: `invalid request body: …`.
        TooLargeError: the body is over the setting `max_json_bytes`.
    """
    body = await read_body(request, request.app[SETTINGS].max_json_bytes, way_around)
    return parse_json(body, model)


def parse_json(body: bytes, model: type[M]) -> M:
    """A JSON text as a wire model; see the module's text for what is forgiven.

    Raises:
        InvalidError: `invalid request body: …`.
    """
    return validate(_first_value(body), model)


def _first_value(body: bytes) -> object:
    text = body.decode("utf-8", "replace").lstrip(_JSON_SPACE)
    if not text:
        raise InvalidError("invalid request body: EOF (the body is empty, JSON is expected)")
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as exc:
        if exc.pos >= len(text.rstrip(_JSON_SPACE)) or exc.msg.startswith("Unterminated"):
            raise InvalidError("invalid request body: unexpected EOF") from None
        reason = exc.msg[:1].lower() + exc.msg[1:]
        raise InvalidError(f"invalid request body: {reason} at character {exc.pos + 1}") from None
    except (RecursionError, ValueError) as exc:
        raise InvalidError(f"invalid request body: {exc or 'too deeply nested'}") from None
    return value


def validate(value: object, model: type[M]) -> M:
    """A JSON value as a wire model: `null` is `{}`, keys match in any case, `null` is absent.

    Raises:
        InvalidError: `invalid request body: …`, naming each key that is wrong.
    """
    if value is None:
        value = {}
    if not isinstance(value, dict):
        kind = _kind(value)
        raise InvalidError(f"invalid request body: cannot unmarshal {kind}, an object is expected")
    names = {(info.alias or name).lower(): name for name, info in model.model_fields.items()}
    known = {
        names[key.lower()]: item
        for key, item in value.items()
        if key.lower() in names and item is not None
    }
    try:
        return model.model_validate(known)
    except ValidationError as exc:
        raise InvalidError(f"invalid request body: {explain(exc, model)}") from None


def explain(exc: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with which key, in the words of the reference where they are stable."""
    return "\n".join(_explain_one(dict(error), model) for error in exc.errors(include_url=False))


def _explain_one(error: dict[str, object], model: type[BaseModel]) -> str:
    location = error["loc"]
    path = ".".join(str(part) for part in location) if isinstance(location, tuple) else ""
    name = path.partition(".")[0]
    key = next((i.alias for n, i in model.model_fields.items() if name in {n, i.alias}), name)
    if error["type"] in {"missing", "string_too_short"}:
        struct, field = model.__name__, str(key)[:1].upper() + str(key)[1:]
        return (
            f"Key: '{struct}.{field}' Error:Field validation for '{field}' "
            "failed on the 'required' tag"
        )
    kind = _kind(error.get("input"))
    return f"cannot unmarshal {kind} into field {key}: {str(error['msg']).lower()}"


def _kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return f"number {value!r:.40}"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


def json_reply(model: BaseModel, status: int = 200) -> web.Response:
    """A wire model as a compact JSON reply."""
    body = model.__pydantic_serializer__.to_json(model, by_alias=True)
    return json_bytes_reply(body, status)


def json_bytes_reply(body: bytes, status: int = 200) -> web.Response:
    """JSON that is serialised already."""
    return web.Response(body=body, status=status, headers={"Content-Type": JSON_TYPE})
