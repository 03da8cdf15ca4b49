"""Some lines of a file of any size.

Everything here blocks: run it on file threads.
"""

import io
from collections.abc import Callable
from typing import Final

from sandbox_api.core.paths import Location, printable
from sandbox_api.core.refusals import operation
from sandbox_api.core.regular import follow_status, open_regular
from sandbox_api.errors import InvalidError, TooLargeError, UnavailableError

MAX_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 20


def read_lines(location: Location, start: int, end: int, stopped: Callable[[], bool]) -> str:
    """Lines of a file without the newline of the last one; a final newline begins an empty line.

    Args:
        location: the file.
        start: the first line, from 1 on.
        end: the last one; `start - 1` for none.
        stopped: asked now and then whether to give up.

    Raises:
        InvalidError: the file does not have these lines.
        TooLargeError: they are too long.
        UnavailableError: it takes too long to come to them.
        NotFoundError: there is no such file.
        FailedError: no regular file, or the system refused.
    """
    fd, _ = open_regular(location.absolute, follow_status(location))
    with io.FileIO(fd) as file, operation("read", location.absolute):
        return _read(file, location, start, end, stopped)


def _read(
    file: io.FileIO, location: Location, start: int, end: int, stopped: Callable[[], bool]
) -> str:
    if start < 1 or end < start - 1:
        raise InvalidError(f"invalid line range: {start} to {end}; lines are counted from 1")
    found, line = bytearray(), 1
    while (chunk := file.read(_READ_BYTES)) and line <= end:
        line = _take(chunk, line, start, end, found)
        if stopped():
            raise UnavailableError(f"it takes too long to come to line {start}")
        if len(found) > MAX_BYTES:
            raise TooLargeError(
                f"lines {start} to {end} of {printable(location.absolute)} are over {MAX_BYTES} "
                "bytes; read fewer"
            )
    if line < max(end, start - 1):
        raise InvalidError(
            f"invalid line range: {start} to {end}, while "
            f"{printable(location.absolute)} has lines 1 to {line}"
        )
    whole = found.removesuffix(b"\n") if line > end else found  # the last line has none
    return whole.decode("utf-8", "replace")


def _take(chunk: bytes, line: int, start: int, end: int, found: bytearray) -> int:
    """Add what of a chunk belongs to the lines; the number of the line in which it ends."""
    at = 0
    while line <= end:
        edge = chunk.find(b"\n", at) + 1
        if line >= start:
            found += chunk[at : edge or len(chunk)]
        if not edge:
            return line
        line, at = line + 1, edge
    return line
