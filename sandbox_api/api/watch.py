"""What changes in a directory, as it happens: `/watch/filesystem` (spec/filesystem.md 12).

A line is byte for byte what clients of the reference know, unless the request asks for more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from sandbox_api.api.query import flag, number
from sandbox_api.api.wire import FILES, WATCHES, client_path, dump_json
from sandbox_api.core.watch import READ_EVENTS, Event, NumberedEvent, Reader, Watches, WatchSpec
from sandbox_api.errors import InvalidError

PREFIX: Final = "/watch/filesystem"
PATTERN: Final = PREFIX + r"/{path:[\s\S]*}"
SILENCE_S: Final = 15.0
TEXTS_AT_ONCE: Final = 16  # of 64 KiB at most
KEEP_ALIVE_LINE: Final = b"[keepalive]\n"

_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8", "X-Accel-Buffering": "no"}
_NO_TEXTS: Final[Mapping[Event, str]] = {}


@dataclass(frozen=True, slots=True)
class Additions:
    """What the request asks for beyond the reference's lines."""

    content: bool
    numbers: bool
    since: int | None


async def watch(request: web.Request) -> web.StreamResponse:
    """Follow a directory until the client leaves or the directory goes."""
    additions = _additions(request)
    watches = request.app[WATCHES]
    async with watches.watch(
        _spec(request), numbered=additions.numbers, since=additions.since
    ) as reader:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        if additions.numbers:
            await response.write(_lines([reader.start()], additions, _NO_TEXTS))
        while (lines := await _next_lines(watches, reader, additions)) is not None:
            await response.write(lines or KEEP_ALIVE_LINE)
        await response.write_eof()
    return response


async def head_watch(request: web.Request) -> web.Response:
    """Whether there is such a directory, without watching it."""
    await request.app[WATCHES].inspect(_spec(request))
    return web.Response(headers=_HEADERS)


def _spec(request: web.Request) -> WatchSpec:
    path = client_path(request, PREFIX)
    recursive = path == "**" or path.endswith("/**")
    if recursive:
        path = path[:-3] or path[:-2]  # `/**` is all of `/`, `**` all of the working directory
    location = request.app[FILES].resolve(path)
    if location.reserved:
        raise InvalidError("path is not a directory: it is one of unfinished writes")
    ignore = tuple(text for text in request.query.get("ignore", "").split(",") if text)
    return WatchSpec(location.absolute, recursive, ignore, _poll(request))


def _poll(request: web.Request) -> bool | None:
    text = request.query.get("poll", "")
    if text not in {"", "true", "false"}:
        raise InvalidError(f"invalid poll: '{text:.40}' is neither true nor false")
    return text == "true" if text else None


def _additions(request: web.Request) -> Additions:
    resumes = bool(request.query.get("since"))
    since = number(request, "since", 0) if resumes else None
    return Additions(flag(request, "content"), resumes or flag(request, "numbers"), since)


async def _next_lines(watches: Watches, reader: Reader, additions: Additions) -> bytes | None:
    """What comes next, as lines; none after a silence, None at the end."""
    limit = TEXTS_AT_ONCE if additions.content else READ_EVENTS
    events = await reader.next(SILENCE_S, limit)
    if not events:
        return None if events is None else b""
    texts = await watches.read_texts(events) if additions.content else _NO_TEXTS
    return _lines(events, additions, texts)


def _lines(events: list[NumberedEvent], additions: Additions, texts: Mapping[Event, str]) -> bytes:
    return b"".join(_line(at, event, additions, texts) for at, event in events)


def _line(at: int, event: Event, additions: Additions, texts: Mapping[Event, str]) -> bytes:
    fields: dict[str, object] = event._asdict()
    if additions.numbers:
        fields["number"] = at
    if event in texts:
        fields["content"] = texts[event]
    return dump_json(fields) + b"\n"


ROUTES = (
    web.get(PATTERN, watch, allow_head=False),
    web.head(PATTERN, head_watch),
)
