"""The access line: one per request, written when its answer is out (spec/system.md 4).

It goes straight to the log's writer: records, handlers and their locks would cost a third of a
small request's time.
"""

import re
from collections.abc import Callable
from math import ceil
from typing import Final, TypeAlias
from urllib.parse import unquote_plus

from aiohttp.abc import AbstractAccessLogger
from aiohttp.web import BaseRequest, StreamResponse

from sandbox_api.api.access import is_for_app
from sandbox_api.api.wire import RESPONSE_HEADERS
from sandbox_api.log import json_line

AccessLines: TypeAlias = Callable[[bytes], None]

CLIENT_LEFT: Final = 499  # what nginx writes for a client that left before its answer began
REDACTED: Final = "%5BREDACTED%5D"
SECRET_PARAMETER: Final = re.compile(
    r"(x-)?api[_-]?key|((access|refresh|auth|id|api|bl_preview)_)?token|apitoken|bearer|jwt"
    r"|password|passwd|pwd|((client|api)_)?secret|((private|encryption)_)?key"
    r"|auth(orization)?|credentials?|session(_?id)?",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?<![^&;])([^&;=]+)=[^&;]*")  # anchored: linear on a query without =
_ERROR = 400


def redact_query(query: str) -> str:
    """A raw query with the value of every parameter that may be a secret replaced."""
    return _PARAMETER.sub(_redact_parameter, query)


def _redact_parameter(match: re.Match[str]) -> str:
    secret = SECRET_PARAMETER.fullmatch(unquote_plus(match[1]).strip())
    return f"{match[1]}={REDACTED}" if secret else match[0]


def log_access(
    lines: AccessLines, request: BaseRequest, status: int, size_bytes: int, time_s: float
) -> None:
    """Write the line `METHOD path[?query] STATUS BYTES MSms`.

    Args:
        lines: where it goes.
        request: the request; preflights and redirects of ours are not logged.
        status: the status of the answer.
        size_bytes: bytes of the body; for a stream, of all that was sent.
        time_s: seconds from the request's arrival to the end of the answer; rounded up to ms.
    """
    if request.get(RESPONSE_HEADERS) == {} or (
        request.method == "OPTIONS" and not is_for_app(request)
    ):
        return
    url = request.rel_url
    query = url.raw_query_string
    path = f"{url.raw_path}?{redact_query(query)}" if query else url.raw_path
    time_ms = ceil(time_s * 1000)
    line = json_line(
        "error" if status >= _ERROR else "info",
        f"{request.method} {path} {status} {size_bytes} {time_ms}ms",
        source="access",
        method=request.method,
        status=status,
        bytes=size_bytes,
        ms=time_ms,
    )
    lines(line)


class AccessLogger(AbstractAccessLogger):
    """What aiohttp calls when an answer is out, sent files included.

    Its `logger` is an `AccessLines`: aiohttp only hands it through.
    """

    logger: AccessLines  # type: ignore[assignment] # see above

    def log(self, request: BaseRequest, response: StreamResponse, time: float) -> None:
        """Write the line of a finished answer."""
        declared = response.content_length if request.method != "HEAD" else 0
        sent_bytes = response.body_length if declared is None else declared
        log_access(self.logger, request, response.status, sent_bytes, time)
