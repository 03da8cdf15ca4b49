"""Ports on the wire (spec/system.md 6)."""

from sandbox_api.api.schemas.base import WireModel


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


class PortsReply(WireModel):
    """The sockets of a process and of what it started."""

    pid: int
    ports: list[PortEntry]
