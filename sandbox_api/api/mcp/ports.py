"""The tool that tells which ports are open."""

from collections.abc import Collection, Sequence
from typing import Final

from pydantic import Field

from sandbox_api.api.mcp.schemas import Arguments, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool
from sandbox_api.api.schemas.network import PortEntry, port_entry
from sandbox_api.api.wire import FILE_THREADS, PROCESSES
from sandbox_api.core.ports import OwnedSocket, sockets_of
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.ending import find_processes
from sandbox_api.core.processes.tree import all_stats
from sandbox_api.errors import NotFoundError


class PortsArguments(Arguments):
    identifier: str | None = Field(
        None, description="PID or name of a process, for its ports only; all if absent"
    )


class PortsResult(Result):
    ports: list[PortEntry]


async def list_ports(call: Call, wanted: PortsArguments) -> PortsResult:
    process = None
    if wanted.identifier is not None:
        process = call.app[PROCESSES].find(wanted.identifier)
        if process is None:
            raise NotFoundError("failed to list ports: process not found")
    # as the workload user, who sees its own processes only (G29)
    pipes = process.output.pipe_links() if process else ()
    found = await call.app[FILE_THREADS].run(_listening, process, pipes)
    return PortsResult(ports=[port_entry(one) for one in found])


def _listening(process: Process | None, pipes: Collection[str]) -> Sequence[OwnedSocket]:
    stats = all_stats() if process is None else find_processes(process, pipes)
    found = sockets_of((stat.pid, stat.name) for stat in stats)
    return [one for one in found if one.socket.open]


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "portsList",
        "List the ports that are listened on in this sandbox, and by which process. A server is "
        "reachable from outside only if its localAddr is not a loopback address.",
        PortsArguments,
        PortsResult,
        list_ports,
        Hints(title="List open ports", read_only=True),
    ),
)
