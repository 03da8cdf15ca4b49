"""What opens and closes, as NDJSON: `GET /network/ports/stream`.

The stream begins with what is open, or, where a client names the last event that it has seen, with
what came after that one. `ready` says that all of this was told. Events that are gone, or that an
earlier daemon had numbered, are a `gap`; what is open is then told anew.
"""

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from sandbox_api.api.port_replies import moment, open_port, own_port
from sandbox_api.api.processes.events import KEEP_ALIVE_EVENT, event
from sandbox_api.api.wire import PORT_WATCH, SHUTDOWN
from sandbox_api.core.openings import PortEvent
from sandbox_api.core.portwatch import PortWatch

SILENCE_S: Final = 15.0
_HEADERS: Final = {
    "Content-Type": "application/x-ndjson",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


async def send_port_events(request: web.Request, since: int | None) -> web.StreamResponse:
    """Events until the client leaves or the daemon stops, which ends the stream cleanly.

    Args:
        request: the request.
        since: number of the last event that the client has seen; None for one that begins.
    """
    response = web.StreamResponse(headers=_HEADERS)
    watch, shutdown = request.app[PORT_WATCH], request.app[SHUTDOWN]
    with watch.watching():
        await watch.look()
        await response.prepare(request)
        number = watch.number
        lines = _told(request, watch, since, begin=True)
        while not shutdown.began.is_set():
            await response.write(lines)
            changed = await shutdown.before(watch.changed(number, SILENCE_S))
            lines = _told(request, watch, number) if changed else KEEP_ALIVE_EVENT
            number = watch.number
    await response.write_eof()
    return response


def _told(
    request: web.Request, watch: PortWatch, since: int | None, *, begin: bool = False
) -> bytes:
    """The events after a number; what is open for None, and after a gap."""
    events: Sequence[PortEvent] | None = watch.state() if since is None else watch.since(since)
    ready = event("ready", {"number": watch.number})
    if events is None:
        gap = event("gap", {"number": watch.number})
        return b"".join((gap, *(_line(request, one) for one in watch.state()), ready))
    return b"".join((*(_line(request, one) for one in events), ready if begin else b""))


def _line(request: web.Request, one: PortEvent) -> bytes:
    port = open_port(one.opening, own_port(request)).model_dump(by_alias=True)
    return event(one.kind.value, {"number": one.number, "time": moment(one.at), **port})
