"""Conditions on the state of a file that a request changes (RFC 9110 section 13)."""

import os
import stat
from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from sandbox_api.errors import PreconditionError

ANY: Final = "*"


def file_version(status: os.stat_result) -> str:
    """What tells one state of a regular file from another, as the text of an ETag without quotes.

    A write by rename makes a new inode; any other write changes the time, the size, or both.
    """
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of a file for a request to change it.

    Attributes:
        match: If-Match: versions of which the file must have one, or `*` for any; None is absent.
        none_match: If-None-Match: versions of which the file must have none; None is absent.
    """

    match: Set[str] | None = None
    none_match: Set[str] | None = None

    def check(self, status: os.stat_result | None) -> None:
        """Raise when it does not hold.

        Args:
            status: of the file; None where there is none. What is no regular file has no version.

        Raises:
            PreconditionError: it does not hold.
        """
        if self.match is None and self.none_match is None:
            return
        names: set[str] = set()
        if status is not None:
            names.add(ANY)
            if stat.S_ISREG(status.st_mode):
                names.add(file_version(status))
        if self.match is not None and not names & self.match:
            raise PreconditionError(f"If-Match does not hold: {_state(status)}")
        if self.none_match is not None and names & self.none_match:
            raise PreconditionError(f"If-None-Match does not hold: {_state(status)}")


UNCONDITIONAL: Final = Condition()


def _state(status: os.stat_result | None) -> str:
    if status is None:
        return "there is no such file"
    if not stat.S_ISREG(status.st_mode):
        return "it exists and is no regular file, so it has no ETag"
    return f'the file\'s ETag is "{file_version(status)}"; read it again and decide anew'
