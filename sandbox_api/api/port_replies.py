"""Open ports as values of the wire."""

import os

from aiohttp import web

from sandbox_api.api.processes.events import NS_PER_S, rfc3339
from sandbox_api.api.schemas.network import OpenPort
from sandbox_api.core.openings import Opening


def own_port(request: web.Request) -> int | None:
    """The daemon's own port, as the connection tells it."""
    own = request.get_extra_info("sockname")
    return None if own is None else int(own[1])


def open_port(opening: Opening, own: int | None) -> OpenPort:
    """One port that is open, or was.

    Args:
        opening: which.
        own: the daemon's own port, where that is known.
    """
    place, holder = opening.place, opening.holder
    since = opening.first_seen_at or holder.started_at
    kind = "opened" if opening.first_seen_at else "started"
    ours = (place.protocol, place.port) == ("tcp", own)
    return OpenPort(
        protocol=place.protocol,
        local_addr=place.address,
        local_port=place.port,
        pid=holder.pid,
        process_name=holder.name,
        process=holder.process,
        since=None if since is None else moment(since),
        since_kind=None if since is None else kind,  # type: ignore[arg-type] # one of the two
        reachable=place.reachable,
        daemon=ours and holder.pid in {None, os.getpid()},
    )


def moment(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 with milliseconds."""
    return rfc3339(round(seconds * NS_PER_S))
