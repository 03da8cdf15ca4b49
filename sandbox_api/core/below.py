"""Names below a directory that cannot lead out of it (G25): keys of trees, members of archives.

Everything here blocks: run it on file threads. It looks before it is written: whoever can put a
link in the way in between can write out there anyhow, for it is all done as one user.
"""

import errno
import os
import posixpath
import stat

from sandbox_api.core.paths import RESERVED_PREFIX, printable
from sandbox_api.core.refusals import operation
from sandbox_api.errors import FailedError

MAX_NAME_BYTES = 255
MAX_PARENTS = 4096

_OUTSIDE = "it leads out of the directory"


def relative_name(name: str) -> str:
    """A name without `.`, `..`, empty components and slashes at its ends; empty for the directory.

    Raises:
        FailedError: it is not possible.
    """
    if "\0" in name:
        raise FailedError("a name cannot hold a NUL byte")
    relative = posixpath.normpath(name.lstrip("/") or ".")
    if relative == ".":
        return ""
    parts = relative.split("/")
    if parts[0] == "..":
        raise FailedError(_OUTSIDE)
    if any(part.startswith(RESERVED_PREFIX) for part in parts):
        raise FailedError(f"names that begin with {RESERVED_PREFIX} are reserved")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        raise FailedError("file name too long")
    return relative


class Below:
    """What is below one directory. Links that stay there are followed, others are refused.

    Args:
        root: absolute; it need not exist.

    Attributes:
        root: without links.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self._prefix = self.root.rstrip("/") + "/"
        self._parents: dict[str, str] = {}

    def parent(self, relative: str) -> str:
        """The directory that holds a name, without links; it need not exist.

        Args:
            relative: as `relative_name` gives it, not empty.

        Raises:
            FailedError: it leads out, or is no directory.
        """
        parent = posixpath.dirname(relative)
        known = self._parents.get(parent)
        if known is None:
            path = posixpath.join(self.root, parent) if parent else self.root
            known = self.inside(os.path.realpath(path))
            refuse_file(path)
            if len(self._parents) == MAX_PARENTS:
                self.forget()
            self._parents[parent] = known
        return known

    def target(self, relative: str) -> str:
        """Where a file of this name really is or will be.

        Raises:
            FailedError: it leads out, or is a directory.
        """
        path = posixpath.join(self.parent(relative), posixpath.basename(relative))
        with operation("open", path):
            try:
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    path = self.inside(os.path.realpath(path))
                    status = os.stat(path)
            except FileNotFoundError:
                return path
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return path

    def inside(self, real: str) -> str:
        """A path without links, when it lies below the directory.

        Raises:
            FailedError: it does not.
        """
        if not f"{real}/".startswith(self._prefix):
            raise FailedError(f"{_OUTSIDE}, to {printable(real)}, through a link")
        return real

    def forget(self) -> None:
        """Look at directories again: some may be others now."""
        self._parents.clear()


def refuse_file(path: str) -> None:
    """Refuse what is there and is no directory.

    Raises:
        FailedError: `mkdir A: not a directory`.
    """
    with operation("mkdir", path):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
