"""Open ports as values of the wire."""

import os

from aiohttp import web

from sandbox_api.api.processes.events import NS_PER_S, rfc3339
from sandbox_api.api.schemas.network import OpenPort
from sandbox_api.core.openings import Opening


def open_port(request: web.Request, opening: Opening) -> OpenPort:
    """One port that is open, or was.

    Args:
        request: who asks; the connection tells which port is the daemon's own.
        opening: which.
    """
    place, holder = opening.place, opening.holder
    since = opening.first_seen_at or holder.started_at
    kind = "opened" if opening.first_seen_at else "started"
    own = request.get_extra_info("sockname")
    ours = own is not None and (place.protocol, place.port) == ("tcp", own[1])
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
