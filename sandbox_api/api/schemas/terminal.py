"""Terminals on the wire (spec/system.md 14)."""

from sandbox_api.api.schemas.base import WireModel


class TerminalSession(WireModel):
    """One session; `clients` may be none, it goes on without them."""

    session_id: str
    pid: int
    shell: str
    working_dir: str
    cols: int
    rows: int
    clients: int
    started_at: str
    last_active_at: str


class TerminalSessionsReply(WireModel):
    """All sessions, in order of start."""

    sessions: list[TerminalSession]
