"""The tool that tells which ports are open."""

from typing import Final

from pydantic import Field

from sandbox_api.api.mcp.processes import find_process
from sandbox_api.api.mcp.schemas import Arguments, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool
from sandbox_api.api.port_replies import open_port
from sandbox_api.api.schemas.network import OpenPort
from sandbox_api.api.wire import PORT_WATCH, SETTINGS


class PortsArguments(Arguments):
    identifier: str | None = Field(
        None, description="PID or name of a process, for its ports only; all if absent"
    )


class PortsResult(Result):
    ports: list[OpenPort]


async def list_ports(call: Call, wanted: PortsArguments) -> PortsResult:
    name = None
    if wanted.identifier is not None:
        otherwise = "failed to list ports: process not found"
        name = find_process(call, wanted.identifier, otherwise).name
    found = await call.app[PORT_WATCH].list()
    chosen = [one for one in found if name is None or one.holder.process == name]
    own = call.app[SETTINGS].port or None
    return PortsResult(ports=[open_port(one, own) for one in chosen])


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "portsList",
        "List the ports that are open in this sandbox, and which process has opened each. Only one "
        "that is reachable can be used from outside: others are bound to a loopback address.",
        PortsArguments,
        PortsResult,
        list_ports,
        Hints(title="List open ports", read_only=True),
    ),
)
