"""From what a client wrote to the file it means: the one resolver, and modes as text.

Names are bytes to the kernel. Here they are strings in Python's file system encoding, in which a
byte that is not UTF-8 is a lone surrogate (`os.fsdecode`), so that every name can be addressed.
"""

import os
import posixpath
import re
import stat
from dataclasses import dataclass
from functools import lru_cache

from sandbox_api.errors import InvalidError

RESERVED_PREFIX = ".sandbox-api-"
"""Names that begin so are ours: writes that are not finished. They are hidden everywhere."""

DEFAULT_FILE_MODE = 0o644
DEFAULT_DIRECTORY_MODE = 0o755

_RESERVED_COMPONENT = f"/{RESERVED_PREFIX}"
_SLASHES = re.compile("/{2,}")
_OCTAL = re.compile("[0-7]{1,11}", re.ASCII)
_MODE_LIMIT = 0o37777777777


@dataclass(frozen=True, slots=True)
class Location:
    """One path as the client sees it and as the kernel does.

    Attributes:
        shown: what answers echo: relative stays relative, `..` and a trailing slash stay.
        absolute: cleaned, beginning with `/`; what operations act on and errors name.
    """

    shown: str
    absolute: str

    @property
    def name(self) -> str:
        """The base name; `/` for the root."""
        return posixpath.basename(self.absolute) or "/"

    @property
    def parent(self) -> str:
        """The directory that holds it, absolute."""
        return posixpath.dirname(self.absolute)

    @property
    def reserved(self) -> bool:
        """Whether it names something of ours, or below it."""
        return _RESERVED_COMPONENT in self.absolute


class PathResolver:
    """Client paths to locations (spec/filesystem.md 2).

    Args:
        workdir: absolute; where relative paths begin.
        home: what a leading `~` means; empty where there is none.
    """

    def __init__(self, workdir: str, home: str) -> None:
        self.workdir = _clean(workdir)
        self.home = home

    def resolve(self, path: str) -> Location:
        """The location that a client's path names; nothing is out of reach, `..` may climb.

        Args:
            path: relative to the working directory, absolute, `~` or `~/…`; empty is `.`.

        Raises:
            InvalidError: a NUL byte, or `~` without a home directory.
        """
        if "\0" in path:
            raise InvalidError("invalid path: invalid argument (a name cannot hold a NUL byte)")
        shown = _SLASHES.sub("/", self._expand_home(path or "."))
        if shown.startswith("/"):
            return Location(shown, _clean(shown))
        return Location(shown, _clean(f"{self.workdir}/{shown}"))

    def _expand_home(self, path: str) -> str:
        if path != "~" and not path.startswith("~/"):
            return path
        if not self.home:
            raise InvalidError("home directory not found (set HOME for the daemon)")
        return self.home + path[1:]


def _clean(path: str) -> str:
    return posixpath.normpath(_SLASHES.sub("/", f"/{path}"))


def printable(path: str) -> str:
    """A path for people and JSON: each byte that is not UTF-8 becomes U+FFFD."""
    if path.isascii():
        return path
    return os.fsencode(path).decode("utf-8", "replace")


def parse_mode(text: str | None) -> int | None:
    """Octal digits as permission bits; None or empty is None (spec/filesystem.md 3).

    Raises:
        InvalidError: anything else, and more than 32 bits. Bits above 07777 are dropped: the
            reference prints file types there, and clients send back what they read.
    """
    if not text:
        return None
    if not _OCTAL.fullmatch(text) or int(text, 8) > _MODE_LIMIT:
        raise InvalidError(
            f"invalid permissions format '{text:.40}': octal digits are expected, as in 0644"
        )
    return stat.S_IMODE(int(text, 8))


@lru_cache(256)  # there are few modes in use, and a listing asks for each file
def mode_text(mode: int) -> str:
    """Permission bits as octal text without a leading zero, as in `644`."""
    return format(stat.S_IMODE(mode), "o")
