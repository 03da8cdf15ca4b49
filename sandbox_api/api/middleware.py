"""The one middleware: access, preflights, redirects, errors to statuses, common headers.

Nothing else knows the HTTP status of an error kind, and nothing else writes an error body.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from html import escape
from time import perf_counter
from typing import Final, NoReturn

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from sandbox_api.api.access import Access
from sandbox_api.api.access_log import CLIENT_LEFT, AccessLines, log_access
from sandbox_api.api.wire import RESPONSE_HEADERS, dump_json, json_bytes_reply
from sandbox_api.errors import (
    ConflictError,
    DeadlineError,
    FailedError,
    ForbiddenError,
    InternalError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    RangeError,
    SandboxError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)

log = logging.getLogger(__name__)

STATUSES: Final[Mapping[type[SandboxError], int]] = {
    InvalidError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    PreconditionError: 412,
    TooLargeError: 413,
    RangeError: 416,
    FailedError: 422,
    DeadlineError: 422,  # the reference answers waits that ran out with 422 (spec/process.md 4)
    UnavailableError: 503,
    InternalError: 500,
}

ALLOWED_METHODS: Final = "GET, POST, PUT, DELETE, HEAD, OPTIONS"
ALLOWED_HEADERS: Final = "Content-Type, Authorization"
PREFLIGHT_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": ALLOWED_METHODS,
    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
}
REFUSED_HEADERS: Final = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Content-Type-Options": "nosniff",
}
COMMON_HEADERS: Final = {
    **PREFLIGHT_HEADERS,
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Disposition, Content-Range, ETag, Server-Timing, WWW-Authenticate"
    ),
    **REFUSED_HEADERS,
}
NO_HEADERS: Final[Mapping[str, str]] = {}

ACCESS_LINES: Final[web.AppKey[AccessLines]] = web.AppKey("access_lines")
STARTED: Final = web.RequestKey("started", web.StreamResponse)
STARTED_AT: Final = web.RequestKey("started_at", float)

# bare prefixes that are no resource: without this they would be sent to the same path plus `/`
_NO_REDIRECT = frozenset({"/filesystem", "/filesystem-multipart/initiate"})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CLIENT_ERROR = 400


def make_middleware(access: Access) -> Middleware:
    """The middleware of the whole application.

    Args:
        access: the rules on Host, Origin and token.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[STARTED_AT] = perf_counter()
        try:
            return await _answer(request, handler, access)
        except asyncio.CancelledError:
            _log_interrupted(request)
            raise
        except Exception as exc:
            if isinstance(exc, ConnectionError) and _has_left(request):
                _log_interrupted(request)
                raise
            response = _failure(request, exc)
            if STARTED in request:
                _cut(request, exc)
            return response

    return middleware


async def _answer(request: web.Request, handler: Handler, access: Access) -> web.StreamResponse:
    try:
        access.check_place(request)
    except SandboxError:
        request[RESPONSE_HEADERS] = REFUSED_HEADERS
        raise
    if request.method == "OPTIONS":
        return _preflight(request)
    access.check_token(request)
    if (login := access.page_login(request)) is not None:
        return login
    raw_path = request.rel_url.raw_path
    if "%" in raw_path and (broken := _BROKEN_ESCAPE.search(raw_path)):
        raise InvalidError(
            f"malformed escape {raw_path[broken.start() :][:3]!r} in the path; write % as %25"
        )
    if request.match_info.http_exception is None:
        return await handler(request)
    return await _unrouted(request)


def _preflight(request: web.Request) -> web.Response:
    """204 for any path, with what was asked for added (WHATWG Fetch, CORS protocol)."""
    headers = request.headers
    methods = _with_asked(ALLOWED_METHODS, headers.get("Access-Control-Request-Method", ""))
    names = _with_asked(ALLOWED_HEADERS, headers.get("Access-Control-Request-Headers", ""))
    request[RESPONSE_HEADERS] = {
        **PREFLIGHT_HEADERS,
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": names,
    }
    return web.Response(status=204)


def _with_asked(allowed: str, asked: str) -> str:
    known = allowed.lower().split(", ")
    names = (name.strip() for name in asked.split(","))
    more = (name for name in names if _TOKEN.fullmatch(name) and name.lower() not in known)
    return ", ".join([allowed, *dict.fromkeys(more)])


async def _unrouted(request: web.Request) -> web.Response:
    """The sibling with or without a final slash where there is one, else the plain 404."""
    url = request.rel_url
    path = url.raw_path
    sibling = path[:-1] if path.endswith("/") else path + "/"
    if sibling and path not in _NO_REDIRECT:
        target = URL.build(path=sibling, query_string=url.raw_query_string, encoded=True)
        match = await request.app.router.resolve(request.clone(rel_url=target))
        if match.http_exception is None:
            return _redirect(request, str(target))
    return not_found()


def _redirect(request: web.Request, location: str) -> web.Response:
    request[RESPONSE_HEADERS] = NO_HEADERS
    if request.method != "GET":
        return web.Response(status=307, headers={"Location": location})
    page = f'<a href="{escape(location)}">Moved Permanently</a>.\n'
    headers = {"Location": location, "Content-Type": "text/html; charset=utf-8"}
    return web.Response(status=301, text=page, headers=headers)


def not_found() -> web.Response:
    """What is no route is a 404 that is not JSON: clients tell by that what is missing."""
    return web.Response(
        status=404, body=b"404 page not found", headers={"Content-Type": "text/plain"}
    )


def error_reply(exc: SandboxError) -> web.Response:
    """An error kind as its status and JSON body."""
    status = next(STATUSES[kind] for kind in type(exc).__mro__ if kind in STATUSES)
    response = json_error(status, exc.message, exc.fields)
    if isinstance(exc, UnauthorizedError):
        response.headers["WWW-Authenticate"] = 'Bearer realm="sandbox-api"'
    if isinstance(exc, RangeError) and "size" in exc.fields:  # RFC 9110 section 15.5.17
        response.headers["Content-Range"] = f"bytes */{exc.fields['size']}"
    return response


def json_error(
    status: int, message: str, fields: Mapping[str, object] = NO_HEADERS
) -> web.Response:
    """The body of every error."""
    return json_bytes_reply(dump_json({"error": message, **fields}), status)


def http_error(exc: web.HTTPException) -> web.Response:
    """aiohttp's own exceptions: the plain 404, redirects as they are, the rest as JSON."""
    if exc.status in {404, 405}:
        return not_found()
    if exc.status < _CLIENT_ERROR:
        return exc
    response = json_error(exc.status, exc.text or exc.reason)
    own = {name: text for name, text in exc.headers.items() if not name.startswith("Content-")}
    response.headers.update(own)
    return response


def _failure(request: web.Request, exc: Exception) -> web.Response:
    match exc:
        case web.HTTPException():
            return http_error(exc)
        case SandboxError():
            return error_reply(exc)
        case HttpProcessingError() | web.RequestPayloadError():
            return error_reply(InvalidError(f"invalid request body: {exc}"))
        case _:
            return _internal(request, exc)


def _internal(request: web.Request, exc: Exception) -> web.Response:
    log.error(
        "unexpected error", exc_info=exc, extra={"method": request.method, "path": request.path}
    )
    return error_reply(InternalError("internal error; the daemon's log says more"))


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut(request: web.Request, cause: Exception) -> NoReturn:
    """The answer has begun: no second status line, the connection is dropped."""
    log.error("stream broken off: %s", cause, extra={"path": request.path})
    _log_interrupted(request)
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionAbortedError("the answer had begun") from cause


def _log_interrupted(request: web.Request) -> None:
    """The access line of an answer that did not come to its end."""
    started = request.get(STARTED)
    status = CLIENT_LEFT if started is None else started.status
    log_access(
        request.app[ACCESS_LINES],
        request,
        status,
        request.writer.output_size,
        perf_counter() - request[STARTED_AT],
    )


async def add_server_timing(request: web.Request, response: web.StreamResponse) -> None:
    """Signal on_response_prepare, where ENABLE_PROCESSING_TIME is set."""
    now = perf_counter()
    spent_ms = (now - request.get(STARTED_AT, now)) * 1000  # unset: refused before the middleware
    response.headers["Server-Timing"] = (
        f'total;dur={spent_ms:.2f};desc="Processing time of the Sandbox API request"'
    )


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal on_response_prepare: every answer gets its headers just before they are sent."""
    request[STARTED] = response
    headers = response.headers
    headers.pop("Server", None)
    for name, value in request.get(RESPONSE_HEADERS, COMMON_HEADERS).items():
        headers.setdefault(name, value)
