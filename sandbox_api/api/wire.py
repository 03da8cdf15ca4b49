"""Between HTTP and values: bodies in, replies out, and where each service is found.

JSON bodies are read whatever their Content-Type says (every entrypoint uses `curl -d`), leniently
where the reference is lenient: keys in any case, `null` is absent, bytes after the first JSON value
are ignored, broken UTF-8 becomes U+FFFD (spec/filesystem.md 1).
"""

import asyncio
import json
import json.scanner
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

from aiohttp import web
from pydantic import BaseModel, ValidationError

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.core.archives import Archives
from sandbox_api.core.copies import Copies
from sandbox_api.core.files import Files
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.processes import Processes
from sandbox_api.core.processes.host import Host
from sandbox_api.core.searches.searches import Searches
from sandbox_api.core.terminals import Terminals
from sandbox_api.core.trees import Trees
from sandbox_api.core.uploads import Resuming, Uploads
from sandbox_api.errors import InvalidError, TooLargeError
from sandbox_api.settings import Settings

M = TypeVar("M", bound=WireModel)

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
FILE_THREADS: web.AppKey[FileThreads] = web.AppKey("file_threads", FileThreads)
FILES: web.AppKey[Files] = web.AppKey("files", Files)
UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
RESUMING: web.AppKey[Resuming] = web.AppKey("resuming", Resuming)
ARCHIVES: web.AppKey[Archives] = web.AppKey("archives", Archives)
COPIES: web.AppKey[Copies] = web.AppKey("copies", Copies)
SEARCHES: web.AppKey[Searches] = web.AppKey("searches", Searches)
TREES: web.AppKey[Trees] = web.AppKey("trees", Trees)
HOST: web.AppKey[Host] = web.AppKey("host", Host)
PROCESSES: web.AppKey[Processes] = web.AppKey("processes", Processes)
TERMINALS: web.AppKey[Terminals] = web.AppKey("terminals", Terminals)


class Shutdown:
    """How open streams learn that the daemon stops.

    A log stream of a process that still lives must not end cleanly, for clients read a clean end as
    "the process finished" (G07): it is served inside `cut`, which drops its connection without the
    final chunk; aiohttp then cancels its handler. Other streams may wait for `began` and say
    goodbye.
    """

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self._cut: dict[int, web.Request] = {}  # a request has no hash

    @contextmanager
    def cut(self, request: web.Request) -> Iterator[None]:
        """While the context lasts, a shutdown drops this request's connection."""
        self._cut[id(request)] = request
        if self.began.is_set():
            _drop(request)
        try:
            yield
        finally:
            del self._cut[id(request)]

    def begin(self) -> None:
        """Tell all streams; called once, when the daemon was told to stop."""
        self.began.set()
        for request in self._cut.values():
            _drop(request)


def _drop(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


SHUTDOWN: web.AppKey[Shutdown] = web.AppKey("shutdown", Shutdown)

# what is sent instead of the common headers: a middleware's and a proxy's business only
RESPONSE_HEADERS: web.RequestKey[Mapping[str, str]] = web.RequestKey("response_headers", Mapping)

JSON_TYPE = "application/json; charset=utf-8"
READ_BYTES = 256 * 1024

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
_INT64_DIGITS = 20  # with the sign


def _integer(text: str) -> int | float:
    """A JSON integer; beyond 64 bits it becomes a float, which no integer field takes."""
    if len(text) <= _INT64_DIGITS and INT64_MIN <= (value := int(text)) <= INT64_MAX:
        return value
    return float(text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; leave the key out or send null")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r:.200} stands twice")
    return found


class PatientDecoder(json.JSONDecoder):
    """Decodes large bodies on a thread; a key that stands twice is an error.

    The scanner is the one that is written in Python (strings are still read in C), for the one in C
    would hold the interpreter's lock, and so the event loop, until the end.
    """

    def __init__(self) -> None:
        super().__init__(
            parse_int=_integer, parse_constant=_no_constant, object_pairs_hook=_unique_keys
        )
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined] # no stub


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_no_constant)
_JSON_SPACE = " \t\r\n"
_SURROGATE = re.compile("[\ud800-\udfff]")


def client_path(request: web.Request, prefix: str) -> str:
    """The file path that a URL names: absolute with a leading `/`, else relative or empty.

    One slash after the prefix is the separator; what then begins with a slash, encoded or not, is
    absolute (spec/filesystem.md 2.2 and quirk 3). Every byte name can be addressed.

    Args:
        request: the request; its escapes are well-formed, the middleware sees to that.
        prefix: the decoded route up to the separator, such as `/filesystem`.
    """
    # yarl decodes all escapes but those of `/` and `%` and those that are not UTF-8
    return unquote_name(request.rel_url.path_safe[len(prefix) :].removeprefix("/"))


def unquote_name(text: str) -> str:
    """A path without its percent-escapes, whatever bytes they stand for."""
    return os.fsdecode(unquote_to_bytes(text.encode("utf-8", "surrogateescape")))


async def body_chunks(
    request: web.Request, max_bytes: int, way_around: str
) -> AsyncIterator[bytes]:
    """The body as it comes, with a cap.

    Args:
        request: the request.
        max_bytes: the most that is taken.
        way_around: what the client can do instead; ends the error's text.

    Raises:
        TooLargeError: the body is larger; what is left of it is not read.
    """
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise TooLargeError(f"request body of {declared} bytes is over {max_bytes}; {way_around}")
    taken = 0
    while chunk := await request.content.read(READ_BYTES):
        taken += len(chunk)
        if taken > max_bytes:
            raise TooLargeError(f"request body is over {max_bytes} bytes; {way_around}")
        yield chunk


async def read_body(request: web.Request, max_bytes: int, way_around: str) -> bytes:
    """The whole body, with a cap; see `body_chunks`."""
    body = bytearray()
    async for chunk in body_chunks(request, max_bytes, way_around):
        body += chunk
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


def parse_json(body: bytes, model: type[M], decoder: json.JSONDecoder = _DECODER) -> M:
    """A JSON text as a wire model; see the module's text for what is forgiven.

    Raises:
        InvalidError: `invalid request body: …`.
    """
    return validate(_first_value(body, decoder), model)


def _first_value(body: bytes, decoder: json.JSONDecoder) -> object:
    text = body.decode("utf-8", "replace").lstrip(_JSON_SPACE)
    if not text:
        raise InvalidError("invalid request body: EOF (the body is empty, JSON is expected)")
    try:
        value, _ = decoder.raw_decode(text)
        return _without_surrogates(value) if "\\u" in text else value
    except json.JSONDecodeError as exc:
        if exc.pos >= len(text.rstrip(_JSON_SPACE)) or exc.msg.startswith("Unterminated"):
            raise InvalidError("invalid request body: unexpected EOF") from None
        reason = exc.msg[:1].lower() + exc.msg[1:]
        raise InvalidError(f"invalid request body: {reason} at character {exc.pos + 1}") from None
    except RecursionError:
        raise InvalidError("invalid request body: nested too deeply") from None
    except ValueError as exc:
        raise InvalidError(f"invalid request body: {exc}") from None


def _without_surrogates(value: object) -> object:
    """Lone surrogates (`"\\ud800"`) are no text: each becomes U+FFFD."""
    match value:
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case list():
            return [_without_surrogates(item) for item in value]
        case dict():
            return {
                _SURROGATE.sub("\ufffd", key): _without_surrogates(item)
                for key, item in value.items()
            }
        case _:
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


def dump_json(value: Mapping[str, object]) -> bytes:
    """Compact JSON; bytes that are no UTF-8 (surrogate escapes) become U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _SURROGATE.sub("\ufffd", text).encode()


def json_reply(model: BaseModel, status: int = 200) -> web.Response:
    """A wire model as a compact JSON reply."""
    body = model.__pydantic_serializer__.to_json(model, by_alias=True)
    return json_bytes_reply(body, status)


def json_bytes_reply(body: bytes, status: int = 200) -> web.Response:
    """JSON that is serialised already."""
    return web.Response(body=body, status=status, headers={"Content-Type": JSON_TYPE})
