"""Ports over HTTP: `/network` (spec/system.md 6)."""

import re

from aiohttp import web

from sandbox_api.api.callbacks import check_callback
from sandbox_api.api.port_replies import open_port, own_port
from sandbox_api.api.port_stream import send_port_events
from sandbox_api.api.schemas.base import PathReply
from sandbox_api.api.schemas.network import (
    OpenPortsReply,
    PortEntry,
    PortMonitorRequest,
    PortsReply,
)
from sandbox_api.api.wire import (
    FILE_THREADS,
    MONITORS,
    PORT_WATCH,
    PROCESSES,
    json_reply,
    read_json,
)
from sandbox_api.core.ports import OwnedSocket
from sandbox_api.core.processes.sockets import sockets_of_process
from sandbox_api.errors import InvalidError

_NUMBER = re.compile("[+-]?[0-9]{1,18}", re.ASCII)


async def list_ports(request: web.Request) -> web.Response:
    """The sockets of a process and its subtree, one for each protocol and local port."""
    pid = _pid(request)
    process = request.app[PROCESSES].find(str(pid))
    if process is not None and process.pid != pid:  # one whose name is that number
        process = None
    pipes = process.output.pipe_links() if process else ()
    # as the workload user, who sees its own processes only (G29)
    found = await request.app[FILE_THREADS].run(sockets_of_process, pid, process, pipes)
    return json_reply(PortsReply(pid=pid, ports=[_entry(one) for one in found]))


async def head_ports(request: web.Request) -> web.Response:
    """The route exists, and the number is one."""
    _pid(request)
    return web.Response()


async def refuse_no_pid(_: web.Request) -> web.Response:
    """`/network/process//ports`."""
    raise InvalidError("missing required path parameter: pid")


async def list_open_ports(request: web.Request) -> web.Response:
    """Everything that is open in the sandbox."""
    watch = request.app[PORT_WATCH]
    found = await watch.list()
    ports = [open_port(opening, own_port(request)) for opening in found]
    return json_reply(OpenPortsReply(ports=ports, number=watch.number))


async def stream_ports(request: web.Request) -> web.StreamResponse:
    """What opens and closes, as NDJSON."""
    text = request.query.get("since", "")
    if text and not _NUMBER.fullmatch(text):
        raise InvalidError(f"invalid since '{text:.40}': the number of an event is expected")
    return await send_port_events(request, int(text) if text else None)


async def head_stream(_: web.Request) -> web.Response:
    """The route exists; nothing is followed."""
    return web.Response()


async def start_monitor(request: web.Request) -> web.Response:
    """Tell a callback of each port that a process opens."""
    pid = _pid(request)
    body = await read_json(request, PortMonitorRequest)
    check_callback(body.callback)
    request.app[MONITORS].add(pid, body.callback)
    return json_reply(PathReply(path="", message="Port monitoring started"))


async def stop_monitor(request: web.Request) -> web.Response:
    """Tell nobody any more."""
    request.app[MONITORS].remove(_pid(request))
    return json_reply(PathReply(path="", message="Port monitoring stopped"))


def _pid(request: web.Request) -> int:
    text = request.match_info["pid"]
    if not _NUMBER.fullmatch(text):
        raise InvalidError("invalid PID")
    return int(text)


def _entry(owned: OwnedSocket) -> PortEntry:
    one = owned.socket
    return PortEntry(
        pid=owned.pid,
        protocol=one.protocol,
        local_addr=one.local_addr,
        local_port=one.local_port,
        remote_addr=one.remote_addr,
        remote_port=one.remote_port,
        state=one.state,
        process_name=owned.process_name,
    )


ROUTES = (
    web.get("/network/ports", list_open_ports, allow_head=True),
    web.get("/network/ports/stream", stream_ports, allow_head=False),
    web.head("/network/ports/stream", head_stream),
    web.post("/network/process/{pid}/monitor", start_monitor),
    web.delete("/network/process/{pid}/monitor", stop_monitor),
    web.get("/network/process/{pid}/ports", list_ports, allow_head=False),
    web.head("/network/process/{pid}/ports", head_ports),
    web.get("/network/process//ports", refuse_no_pid, allow_head=False),
)
