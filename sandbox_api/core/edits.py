"""Changing a part of a file: exact text replaced by other text, as one step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sandbox_api.core.atomic import write_file
from sandbox_api.core.conditions import UNCONDITIONAL, Condition, file_version
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import DEFAULT_FILE_MODE, Location, printable
from sandbox_api.core.refusals import operation, refuse_reserved
from sandbox_api.core.regular import follow_status, open_regular
from sandbox_api.errors import (
    ConflictError,
    FailedError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    TooLargeError,
    UnavailableError,
)

MAX_BYTES = 32 << 20
ATTEMPTS = 20


class Snapshot(NamedTuple):
    """A file as it was at one moment.

    Attributes:
        data: its bytes; none where there is no file.
        condition: holds as long as it is unchanged.
    """

    data: bytes
    condition: Condition


class Edits:
    """Edits of files; nobody's change in between is lost.

    Args:
        threads: where they run, and as whom.
        fsync: whether every write waits for the disk.
    """

    def __init__(self, threads: FileThreads, *, fsync: bool = False) -> None:
        self._threads = threads
        self._fsync = fsync

    async def replace(
        self, location: Location, old: str, new: str, *, everywhere: bool = False
    ) -> int:
        """Replace a text that stands in a file; its mode stays.

        Args:
            location: the file; a symlink's target is changed.
            old: what is replaced, exactly.
            new: what takes its place.
            everywhere: whether it may stand there more than once.

        Returns:
            How often it was replaced.

        Raises:
            InvalidError: it is empty, the same as the new one, not there, or there more than once.
            NotFoundError: there is no such file.
            ConflictError: others change the file all the time.
            FailedError: no regular file, or the system refused.
        """
        if not old:
            raise InvalidError("oldString must be non-empty")
        if old == new:
            raise InvalidError("oldString and newString are identical")
        for _ in range(ATTEMPTS):
            with _telling(f"failed to read {printable(location.shown)}"):
                before = await self.read(location)
            data, count = _replaced(before.data, old.encode(), new.encode(), location, everywhere)
            try:
                with _telling(f"failed to write {printable(location.shown)}"):
                    await self.write(location, data, before.condition)
            except PreconditionError:
                continue
            return count
        raise ConflictError(f"{printable(location.shown)} changes all the time; try again")

    async def read(self, location: Location, *, missing: bool = False) -> Snapshot:
        """A file as it is now.

        Args:
            location: the file.
            missing: whether a file that is not there counts as an empty one.

        Raises:
            NotFoundError: there is nothing.
            TooLargeError: it is too large to be changed like this.
            FailedError: no regular file, or the system refused.
        """
        return await self._threads.run(_read, location, missing)

    async def write(self, location: Location, data: bytes, condition: Condition) -> None:
        """Write a whole file, if it is still as it was.

        Raises:
            PreconditionError: it is not.
            FailedError: the system refused.
        """
        refuse_reserved(location)
        await self._threads.run(
            write_file,
            location.absolute,
            data,
            mode=DEFAULT_FILE_MODE,
            change_mode=None,
            sync=self._fsync,
            condition=condition,
        )


@contextmanager
def _telling(text: str) -> Iterator[None]:
    """Begin the text of a refusal with what was to be done."""
    try:
        yield
    except (NotFoundError, FailedError, UnavailableError) as exc:
        raise type(exc)(f"{text}: {exc.message}") from exc


def _read(location: Location, missing: bool) -> Snapshot:
    if missing and not os.path.lexists(location.absolute):
        refuse_reserved(location)
        return Snapshot(b"", Condition(none_match={"*"}))
    fd, status = open_regular(location.absolute, follow_status(location))
    try:
        with operation("read", location.absolute):
            data = bytearray()
            while len(data) <= MAX_BYTES and (chunk := os.read(fd, 1 << 20)):
                data += chunk
            after = os.fstat(fd)
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise TooLargeError(
            f"{printable(location.shown)} is over {MAX_BYTES} bytes, too large to be edited"
        )
    if not status.st_size and data:  # a pseudo file, which has no version
        return Snapshot(bytes(data), UNCONDITIONAL)
    return Snapshot(bytes(data), Condition(match={file_version(after)}))


def _replaced(
    data: bytes, old: bytes, new: bytes, location: Location, everywhere: bool
) -> tuple[bytes, int]:
    count, shown = data.count(old), printable(location.shown)
    if not count:
        raise InvalidError(
            f"oldString not found in {shown}. Re-read the file and retry — its contents may have "
            "changed since you last read it"
        )
    if count > 1 and not everywhere:
        raise InvalidError(
            f"oldString matches {count} locations in {shown}; add more surrounding context to make "
            "the match unique, or set replaceAll=true"
        )
    if len(data) + count * (len(new) - len(old)) > MAX_BYTES:
        raise TooLargeError(f"{shown} would grow over {MAX_BYTES} bytes by this edit")
    return data.replace(old, new), count
