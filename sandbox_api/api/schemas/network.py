"""Ports on the wire (spec/system.md 6)."""

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.core.ports import OwnedSocket


class PortEntry(WireModel):
    """One socket of a process; `localAddr` is `*` for all addresses of both families."""

    pid: int
    protocol: str
    local_addr: str
    local_port: int
    remote_addr: str
    remote_port: int
    state: str
    process_name: str


def port_entry(owned: OwnedSocket) -> PortEntry:
    """A socket and who holds it, as a value of the wire."""
    socket = owned.socket._asdict()
    return PortEntry.model_validate(
        {**socket, "pid": owned.pid, "process_name": owned.process_name}
    )


class PortsReply(WireModel):
    """The sockets of a process and of what it started."""

    pid: int
    ports: list[PortEntry]
