"""One file in one request after the other: each goes on where the last one ended.

What has come so far lies in a partial file beside the target. Its name follows from the target and
its full size, and its length is how far the upload is: so nothing else has to be remembered, and a
restart of the daemon changes nothing. The target has its old content until the last byte has come.
"""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from sandbox_api.core.adopted import AdoptedFile
from sandbox_api.core.atomic import NO_TEMPORARY, make_directories, unlink_quietly
from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import DEFAULT_DIRECTORY_MODE, RESERVED_PREFIX, Location, printable
from sandbox_api.core.refusals import operation, refuse_reserved
from sandbox_api.core.tasks import Tasks, expire_regularly
from sandbox_api.core.writer import FileWriter
from sandbox_api.errors import ConflictError, SandboxError

CLOSE_TIMEOUT_S = 2.0

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Span:
    """Which bytes of a file a request carries.

    Attributes:
        start: the first byte, counted from 0.
        stop: the byte behind the last.
        total: the size of the whole file.
    """

    start: int
    stop: int
    total: int


class Resuming:
    """All uploads that resume; use `open`.

    Args:
        threads: act as the workload user.
        own_threads: act as the daemon itself.
        directory: private; where it is noted which partial files there are; None for nowhere.
        fsync: whether the finished file waits for the disk.
        max_age_s: seconds without a new byte after which a partial file is removed; 0 is never.
    """

    def __init__(
        self,
        threads: FileThreads,
        own_threads: FileThreads,
        directory: Path | None,
        *,
        fsync: bool = False,
        max_age_s: float = 0,
    ) -> None:
        self._threads = threads
        self._own_threads = own_threads
        self._fsync = fsync
        self._max_age_s = max_age_s
        self._notes = Notes(directory and directory / "partials")
        self._running: dict[str, ResumingWriter] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = Tasks()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Let abandoned uploads expire meanwhile."""
        expiry = asyncio.create_task(expire_regularly(self.expire, self._max_age_s))
        try:
            yield
        finally:
            expiry.cancel()
            await self._tasks.close(CLOSE_TIMEOUT_S)

    async def received(self, location: Location, total: int) -> int:
        """How many bytes of an upload are there; 0 where it has not begun.

        Args:
            location: the file.
            total: its full size.

        Raises:
            FailedError: the system refused.
        """
        refuse_reserved(location)
        with operation("open", location.absolute):
            return await self._threads.run(_size, partial_path(location.absolute, total))

    async def begin(
        self,
        location: Location,
        span: Span,
        *,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> "ResumingWriter":
        """A writer for the bytes of one request; use it as an async context.

        One that begins at 0 begins anew. An older request of the same upload that is still under
        way, since its connection broke off unnoticed, has to stop.

        Args:
            location: the file; a symlink's target is written.
            span: what the request carries.
            sync: whether the finished file waits for the disk.
            condition: what must hold of the file.

        Raises:
            ConflictError: the upload goes on elsewhere; the field `offset` says where.
            FailedError: the system refused.
            PreconditionError: the condition does not hold.
        """
        refuse_reserved(location)
        return await self._tasks.settle(
            self._begin(location.absolute, span, sync=sync or self._fsync, condition=condition),
            abandoned=lambda writer: self._tasks.start(writer.end()),
        )

    async def _begin(
        self, path: str, span: Span, *, sync: bool, condition: Condition
    ) -> "ResumingWriter":
        with operation("open", path):
            partial = await self._threads.run(partial_path, path, span.total)
            async with self._locks.setdefault(partial, asyncio.Lock()):
                if older := self._running.pop(partial, None):
                    await older.end()
                await self._own_threads.run(self._notes.add, partial)
                file = await self._threads.run(
                    _open, path, partial, span, sync=sync, condition=condition
                )
                writer = ResumingWriter(self, self._threads, file, partial)
                self._running[partial] = writer
        return writer

    async def ended(self, writer: "ResumingWriter", partial: str) -> None:
        """A request is over; for `ResumingWriter` only."""
        if self._running.get(partial) is not writer:
            return  # the partial file is another request's by now
        del self._running[partial]
        if writer.committed:
            await self._threads.run(unlink_quietly, partial)
            await self._own_threads.run(self._notes.remove, partial)

    async def expire(self) -> None:
        """Remove the partial files that have not grown for too long."""
        oldest = time.time() - self._max_age_s
        for partial in await self._own_threads.run(self._notes.all):
            if partial not in self._running and await self._threads.run(_expire, partial, oldest):
                await self._own_threads.run(self._notes.remove, partial)


class ResumingWriter(FileWriter):
    """The bytes of one request; what has come of them stays, whatever happens.

    Args:
        owner: is told when it ends.
        threads: where the file is written.
        file: the write; from here on this is its only owner.
        partial: path of the partial file.
    """

    def __init__(
        self, owner: Resuming, threads: FileThreads, file: AdoptedFile, partial: str
    ) -> None:
        super().__init__(threads, file)
        self.committed = False
        self._owner = owner
        self._partial = partial

    async def commit(self, mode: int | None = None) -> os.stat_result:
        """The last byte has come: let the file have the new content; as in `FileWriter`."""
        status = await super().commit(mode)
        self.committed = True
        return status

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.end())

    async def end(self) -> None:
        """Close, and let another request go on."""
        with suppress(SandboxError):
            await super().__aexit__()
        await self._owner.ended(self, self._partial)


class Notes:
    """Which partial files there are, so that they can expire; a note is a small private file.

    Everything here blocks.

    Args:
        directory: private; None to keep them in memory.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._memory: set[str] = set()

    def add(self, partial: str) -> None:
        """Note one.

        Raises:
            OSError: the disk is full, or the like.
        """
        if self._directory is None:
            self._memory.add(partial)
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        note = self._note(self._directory, partial)
        if not note.exists():
            note.write_bytes(os.fsencode(partial))

    def remove(self, partial: str) -> None:
        """Forget one."""
        self._memory.discard(partial)
        if self._directory is not None:
            self._note(self._directory, partial).unlink(missing_ok=True)

    def all(self) -> list[str]:
        """All that are noted."""
        if self._directory is None:
            return list(self._memory)
        if not self._directory.is_dir():
            return []
        return [os.fsdecode(note.read_bytes()) for note in self._directory.iterdir()]

    @staticmethod
    def _note(directory: Path, partial: str) -> Path:
        return directory / hashlib.blake2b(os.fsencode(partial), digest_size=16).hexdigest()


def partial_path(path: str, total: int) -> str:
    """Where the bytes of an upload lie until it is complete.

    Args:
        path: absolute.
        total: the file's full size.
    """
    target = os.path.realpath(path)
    key = os.fsencode(target) + b"\0%d" % total
    name = hashlib.blake2b(key, digest_size=16).hexdigest()
    return os.path.join(os.path.dirname(target), f"{RESERVED_PREFIX}partial-{name}")


def _size(partial: str) -> int:
    try:
        return os.lstat(partial).st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _open(path: str, partial: str, span: Span, *, sync: bool, condition: Condition) -> AdoptedFile:
    received = _size(partial)
    if span.start not in {0, received}:
        raise ConflictError(
            f"{printable(path)}: {received} of {span.total} bytes have come, so the upload goes on "
            f"at byte {received}, not at {span.start}; send Content-Range: bytes "
            f"{received}-{span.total - 1}/{span.total}",
            {"offset": received, "total": span.total},
        )
    if span.start == 0:
        make_directories(os.path.dirname(partial), DEFAULT_DIRECTORY_MODE)
        unlink_quietly(partial)
        fd = _create(path, partial)
    else:
        fd = os.open(partial, _OPEN)
    file = AdoptedFile(path, partial, fd, sync=sync, condition=condition)
    try:
        os.lseek(fd, span.start, os.SEEK_SET)
        file.write(b"")  # looks at the target: what cannot be written is refused at once
        _refuse_special(path)
    except BaseException:
        file.discard()
        if span.start == 0:
            unlink_quietly(partial)
        raise
    return file


def _create(path: str, partial: str) -> int:
    try:
        return os.open(partial, _CREATE, _PRIVATE)
    except OSError as exc:
        if exc.errno not in NO_TEMPORARY or not os.path.exists(path):
            raise
        reason = (
            f"{os.strerror(exc.errno)}: what has come of an upload that resumes lies beside its "
            "file, and nothing can be made there; send this file in one request"
        )
        raise OSError(exc.errno, reason) from exc


def _refuse_special(path: str) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "is no regular file, so an upload to it cannot resume")


def _expire(partial: str, oldest: float) -> bool:
    """Remove a partial file that is older; whether it is gone."""
    try:
        if os.lstat(partial).st_mtime >= oldest:
            return False
        os.unlink(partial)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
