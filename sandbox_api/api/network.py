"""Sockets over HTTP: `/network` (spec/system.md 6)."""

import re
from collections.abc import Collection

from aiohttp import web

from sandbox_api.api.schemas.network import PortsReply, port_entry
from sandbox_api.api.wire import FILE_THREADS, PROCESSES, json_reply
from sandbox_api.core.ports import OwnedSocket, sockets_of
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.ending import find_processes
from sandbox_api.core.processes.tree import find_tree
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
    found = await request.app[FILE_THREADS].run(_sockets, pid, process, pipes)
    return json_reply(PortsReply(pid=pid, ports=[port_entry(one) for one in found]))


async def head_ports(request: web.Request) -> web.Response:
    """The route exists, and the number is one."""
    _pid(request)
    return web.Response()


async def refuse_no_pid(_: web.Request) -> web.Response:
    """`/network/process//ports`."""
    raise InvalidError("missing required path parameter: pid")


def _sockets(pid: int, process: Process | None, pipes: Collection[str]) -> list[OwnedSocket]:
    if pid <= 0:
        return []
    tree = find_processes(process, pipes) if process else find_tree(pid, reaped=False)
    return sockets_of((stat.pid, stat.name) for stat in tree)


def _pid(request: web.Request) -> int:
    text = request.match_info["pid"]
    if not _NUMBER.fullmatch(text):
        raise InvalidError("invalid PID")
    return int(text)


ROUTES = (
    web.get("/network/process/{pid}/ports", list_ports, allow_head=False),
    web.head("/network/process/{pid}/ports", head_ports),
    web.get("/network/process//ports", refuse_no_pid, allow_head=False),
)
