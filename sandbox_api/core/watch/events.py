"""What a watch tells: one change of one entry, or what is wrong with the watch itself."""

from typing import Final, NamedTuple

CREATE: Final = "CREATE"
WRITE: Final = "WRITE"
REMOVE: Final = "REMOVE"
RENAME: Final = "RENAME"
CHMOD: Final = "CHMOD"


class Event(NamedTuple):
    """One line of a watch.

    Attributes:
        op: what happened; empty where the line is about the watch.
        name: base name; of a renamed entry the old one, the new one comes as CREATE.
        path: the directory that holds it, absolute and without a final slash; empty for `/`.
        error: what the watch missed, or why it ends.
    """

    op: str
    name: str
    path: str
    error: str | None = None

    @property
    def full_path(self) -> str:
        """The path of the entry."""
        return f"{self.path}/{self.name}"


def trouble(path: str, error: str) -> Event:
    """Something is wrong with the watch of a directory."""
    return Event("", "", path, error)
