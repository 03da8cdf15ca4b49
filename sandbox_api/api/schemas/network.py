"""Ports on the wire (spec/system.md 6)."""

from typing import Literal

from pydantic import Field

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


class OpenPort(WireModel):
    """A port that is open in the sandbox.

    `pid` and `since` are null where the holder is not ours to see. `since` is RFC 3339: when the
    port was seen to open (`sinceKind` is `opened`), else when its program began (`started`).
    """

    protocol: str
    local_addr: str
    local_port: int
    pid: int | None
    process_name: str
    process: str | None
    since: str | None
    since_kind: Literal["opened", "started"] | None
    reachable: bool
    daemon: bool


class OpenPortsReply(WireModel):
    """Everything that is open, and the number from which the stream goes on."""

    ports: list[OpenPort]
    number: int


class PortMonitorRequest(WireModel):
    """Whom to tell of the ports that a process opens."""

    callback: str = Field(min_length=1)
