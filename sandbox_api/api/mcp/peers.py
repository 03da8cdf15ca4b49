"""Who a message came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_api.api.mcp.sessions import Session
from sandbox_api.api.mcp.tools import Notify


@dataclass(slots=True)
class Peer:
    """One client, as far as one message tells.

    Attributes:
        headers: of its request; empty where there are none.
        session: where it has one.
        modern: whether it is of the kind without sessions.
        notify: sends a notification along with the answer; None where that cannot be.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    session: Session | None = None
    modern: bool = False
    notify: Notify | None = None
