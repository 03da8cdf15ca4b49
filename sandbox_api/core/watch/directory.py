"""A directory that a watch follows, by its place in the tree: a rename moves all below it, too."""

from typing import Protocol

from sandbox_api.core.watch.raw import Raw

NO_WATCH = -1


class Listener(Protocol):
    """Whoever follows directories."""

    def take(self, raw: Raw, directory: "Directory | None") -> None:
        """What the kernel says about one of them; None where it is about all."""


class Directory:
    """One directory of one watch.

    Args:
        listener: whose it is.
        name: base name; of the root of a watch its path, which is empty for `/`.
        parent: None for the root, and for what was taken out of the tree.

    Attributes:
        children: the directories in it that are followed, by name.
        wd: the kernel's watch of it.
        announced: names that were found in it and told, whose events may be still to come.
    """

    __slots__ = ("announced", "children", "listener", "name", "parent", "wd")

    def __init__(self, listener: Listener, name: str, parent: "Directory | None" = None) -> None:
        self.listener = listener
        self.name = name
        self.parent = parent
        self.children: dict[str, Directory] = {}
        self.wd = NO_WATCH
        self.announced: set[str] | None = None

    @property
    def top(self) -> "Directory":
        """The directory at the top of the tree that it is in."""
        top = self
        while top.parent is not None:
            top = top.parent
        return top

    @property
    def path(self) -> str:
        """Absolute where it is in the tree of its watch; of the root of all, empty."""
        names = []
        directory: Directory | None = self
        while directory is not None:
            names.append(directory.name)
            directory = directory.parent
        return "/".join(reversed(names))

    def attach(self, parent: "Directory", name: str) -> None:
        """Put it into another, under a name."""
        self.parent, self.name = parent, name
        parent.children[name] = self

    def detach(self) -> None:
        """Take it out of the directory that it is in."""
        if self.parent is not None:
            del self.parent.children[self.name]
            self.parent = None
