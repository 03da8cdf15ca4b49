"""Looking at what a path names, and opening it where it is a regular file.

Everything here blocks: run it on file threads.
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from sandbox_api.core.paths import Location, printable
from sandbox_api.core.refusals import operation, refusal
from sandbox_api.errors import FailedError, ForbiddenError, NotFoundError

# A fifo or a device must not make an open wait, nor a terminal become ours.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MISSING = "no such file or directory"


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A regular file that is open for reading; whoever gets it closes it.

    Attributes:
        name: base name.
        file: unbuffered, at its beginning.
        status: of the open file.
        content: what the kernel made up, as in /proc, where the size says nothing; else None.
    """

    name: str
    file: io.FileIO
    status: os.stat_result
    content: bytes | None


def read_status(location: Location) -> os.stat_result:
    """The status of what a path leads to, for who wants to read it.

    Raises:
        NotFoundError: there is nothing, or a file where a directory should be.
        ForbiddenError: a directory on the way is closed to the workload user.
        FailedError: the system refused otherwise.
    """
    try:
        return follow_status(location)
    except FailedError as exc:
        if isinstance(exc.__cause__, NotADirectoryError):
            raise NotFoundError(exc.message) from exc
        if isinstance(exc.__cause__, PermissionError):
            raise ForbiddenError(exc.message) from exc
        raise


def follow_status(location: Location) -> os.stat_result:
    """The status of what a path leads to."""
    return _stat(location, os.stat, f"stat {printable(location.absolute)}: {_MISSING}")


def entry_status(location: Location) -> os.stat_result:
    """The status of the entry itself, which may be a link."""
    return _stat(location, os.lstat, "file or directory not found")


def _stat(
    location: Location, stat_call: Callable[[str], os.stat_result], missing: str
) -> os.stat_result:
    if location.reserved:
        raise NotFoundError(missing)
    try:
        return stat_call(location.absolute)
    except FileNotFoundError:
        raise NotFoundError(missing) from None
    except OSError as exc:
        raise refusal("stat", location.absolute, exc) from exc


def open_regular(path: str, status: os.stat_result) -> tuple[int, os.stat_result]:
    """Open what is a regular file, before the open and after it."""
    with operation("open", path):
        _refuse_special(status)
        fd = os.open(path, READ_FLAGS)
        try:
            status = os.fstat(fd)
            _refuse_special(status)
        except BaseException:
            os.close(fd)
            raise
    return fd, status


def _refuse_special(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file, so it cannot be read as one")
