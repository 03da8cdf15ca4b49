"""Which part of the output a request wants, and in which form (docs/logs.md)."""

import re
import time
from datetime import UTC, datetime

from aiohttp import web

from sandbox_api.api.query import number
from sandbox_api.core.processes.begin import Begin
from sandbox_api.core.processes.journal import Position
from sandbox_api.core.processes.page import LEAST_BYTES
from sandbox_api.errors import InvalidError

NDJSON = "application/x-ndjson"
NS_PER_S = 1_000_000_000
PART_PARAMETERS = ("stdoutOffset", "stderrOffset", "since", "tail", "maxBytes")

_SECONDS = re.compile(r"\d{1,11}(\.\d{1,9})?", re.ASCII)
_UNIT_NS = {
    "ms": NS_PER_S // 1000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
    "d": 86_400 * NS_PER_S,
}
_ONE_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_DURATION = re.compile(f"(?:{_ONE_DURATION.pattern})+", re.ASCII)
_EPOCH = datetime.fromtimestamp(0, UTC)
_SPACE_FOR_PLUS = re.compile(r" (?=\d\d:\d\d$)", re.ASCII)


def wants_part(request: web.Request) -> bool:
    """Whether a request for the output so far asks for a part of it."""
    return any(request.query.get(name) for name in PART_PARAMETERS)


def read_begin(request: web.Request) -> Begin:
    """Where the output begins that is wanted.

    Raises:
        InvalidError: a parameter is not what it must be.
    """
    since, tail = request.query.get("since", ""), request.query.get("tail", "")
    return Begin(
        seen=Position(number(request, "stdoutOffset", 0), number(request, "stderrOffset", 0)),
        since_ns=_time_ns(since) if since else None,
        last_lines=number(request, "tail", 0) if tail else None,
    )


def read_max_bytes(request: web.Request, most: int) -> int:
    """How much of the output is wanted, both streams together, in bytes.

    Args:
        request: the request.
        most: the most that a reply holds; 0 is without a limit.

    Raises:
        InvalidError: it is no number, or too small.
    """
    wanted = number(request, "maxBytes", most, minimum=LEAST_BYTES)
    return min(wanted, max(most, LEAST_BYTES)) if most else wanted


def wants_events(request: web.Request) -> bool:
    """Whether a log stream is to be NDJSON; `format` counts more than `Accept`.

    Raises:
        InvalidError: a format that is not known.
    """
    wanted = request.query.get("format", "")
    if wanted not in {"", "text", "ndjson"}:
        raise InvalidError(f"invalid format '{wanted:.40}': text or ndjson is expected")
    return wanted == "ndjson" or (not wanted and NDJSON in request.headers.get("Accept", ""))


def _time_ns(text: str) -> int:
    """A moment, ns since the epoch: seconds since then, how long ago, or RFC 3339."""
    if _SECONDS.fullmatch(text):
        return round(float(text) * NS_PER_S)
    if _DURATION.fullmatch(text):
        ago = sum(float(n) * _UNIT_NS[unit] for n, unit in _ONE_DURATION.findall(text))
        return max(time.time_ns() - round(ago), 0)
    return _parse_moment(text)


def _parse_moment(text: str) -> int:
    try:
        # a plus sign that was not encoded arrives as a space
        moment = datetime.fromisoformat(_SPACE_FOR_PLUS.sub("+", text))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidError(
            f"invalid since '{text:.40}': a time such as 2026-11-21T01:01:39Z, seconds since 1970, "
            "or how long ago such as 10m is expected"
        )
    return round((moment - _EPOCH).total_seconds() * NS_PER_S)
