"""Wire models of archives: tar streams, and the state of the sandbox's own."""

from typing import Literal

from sandbox_api.api.schemas.base import WireModel


class UnpackReply(WireModel):
    """What was unpacked."""

    path: str
    message: str
    entries: int
    bytes: int


class ArchiveStatusReply(WireModel):
    """Whether the sandbox is being archived: never, here (spec/sdk-clients.md 3.4)."""

    state: Literal["active"] = "active"
