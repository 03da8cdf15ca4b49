"""What a client wants to watch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchSpec:
    """A directory and what of it.

    Attributes:
        path: absolute; a link to a directory is followed.
        recursive: whether all below it, too.
        ignore: an entry whose full path holds one of these texts is left out.
        poll: whether to look again and again instead of asking the kernel; None where that is best.
    """

    path: str
    recursive: bool = False
    ignore: tuple[str, ...] = ()
    poll: bool | None = None

    @property
    def shown(self) -> str:
        """The path as events show it: without a final slash, empty for `/`."""
        return self.path.rstrip("/")

    def ignores(self, full_path: str) -> bool:
        """Whether an entry is left out."""
        return bool(self.ignore) and any(text in full_path for text in self.ignore)
