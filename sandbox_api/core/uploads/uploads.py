"""The multipart sessions: who may do what when (spec/filesystem.md 8)."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import DEFAULT_FILE_MODE, Location
from sandbox_api.core.refusals import attempt, operation, refuse_reserved
from sandbox_api.core.tasks import Tasks, expire_regularly
from sandbox_api.core.uploads.assembly import Assembly
from sandbox_api.core.uploads.metadata import Metadata
from sandbox_api.core.uploads.part_writer import NOT_UPLOADED, PartWriter, no_session
from sandbox_api.core.uploads.session import Part, Place, Session, likely_size
from sandbox_api.core.uploads.storage import (
    PartFile,
    create_file,
    create_near,
    find_lost,
    hold_file,
    open_place,
    remove_files,
    remove_part,
    remove_strays,
)
from sandbox_api.errors import (
    FailedError,
    ForbiddenError,
    InternalError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

log = logging.getLogger(__name__)

MAX_PARTS = 10_000
MAX_SESSIONS = 10_000
CLOSE_TIMEOUT_S = 2.0

_NOT_COMPLETED = "failed to complete upload"


class Uploads:
    """All sessions; use `open`.

    The event loop decides, under a session's lock; whatever touches a disk runs on file threads. A
    change that has begun ends, even when the client that asked for it leaves.

    Args:
        threads: act as the workload user.
        own_threads: act as the daemon itself; the same where there is no workload user.
        directory: private; None where nothing can be kept.
        tmpdir: for parts where there is neither a directory near their file nor a private one.
        fsync: whether a completed file waits for the disk.
        max_age_s: seconds without a new part after which a session ends; 0 is never.
    """

    def __init__(
        self,
        threads: FileThreads,
        own_threads: FileThreads,
        directory: Path | None,
        *,
        tmpdir: str = "/tmp",  # noqa: S108 - files in it are made O_EXCL with random names, 0600
        fsync: bool = False,
        max_age_s: float = 0,
    ) -> None:
        self._threads = threads
        self._own_threads = own_threads
        self._metadata = Metadata(directory and directory / "sessions")
        self._fallback = Place(tmpdir, private=False)
        if directory is not None:
            self._fallback = Place(str(directory), private=True)
        self._fsync = fsync
        self._max_age_s = max_age_s
        self._sessions: dict[str, Session] = {}
        self._tasks = Tasks()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take up the sessions of the last daemon, and let abandoned ones expire meanwhile."""
        for session in self._metadata.load(self._max_age_s):  # nobody is served yet
            self._sessions[session.id] = session
        expiry = asyncio.create_task(expire_regularly(self.expire, self._max_age_s))
        try:
            yield
        finally:
            expiry.cancel()
            await self._tasks.close(CLOSE_TIMEOUT_S)

    def sessions(self) -> list[Session]:
        """All that are open, oldest first; waits for nobody."""
        return sorted(self._sessions.values(), key=lambda session: session.initiated_at_ns)

    def get(self, upload_id: str) -> Session:
        """One session.

        Raises:
            NotFoundError: `upload not found: …`.
        """
        session = self._sessions.get(upload_id)
        if session is None:
            raise NotFoundError(f"upload not found: {upload_id}")
        return session

    async def initiate(self, location: Location, mode: int | None = None) -> Session:
        """Open a session; its file is not looked at before `complete`.

        Args:
            location: what the upload becomes.
            mode: permission bits of a file that does not exist by then; None is 0644.

        Raises:
            FailedError: the name is reserved, there are too many sessions, or the disk is full.
        """
        refuse_reserved(location)
        if len(self._sessions) >= MAX_SESSIONS:
            raise FailedError(
                f"{MAX_SESSIONS} uploads are open; complete or abort some of those that "
                "GET /filesystem-multipart lists"
            )
        session = Session(
            id=str(uuid.uuid4()),
            path=location.absolute,
            mode=DEFAULT_FILE_MODE if mode is None else mode,
            initiated_at_ns=time.time_ns(),
        )
        self._sessions[session.id] = session
        await self._tasks.settle(self._initiate(session))
        return session

    async def _initiate(self, session: Session) -> None:
        try:
            with attempt("failed to save metadata"), operation("write", session.path):
                await self._own_threads.run(self._metadata.save_session, session)
        except BaseException:
            del self._sessions[session.id]
            raise

    async def begin_part(self, upload_id: str, number: int, max_bytes: int = 0) -> PartWriter:
        """A writer for one part; use it as an async context.

        Args:
            upload_id: of the session.
            number: of the part, from 1 to 10000; one that has arrived is replaced on success.
            max_bytes: the most bytes that will come; 0 where that is unknown.

        Raises:
            InternalError: no such session, or no such number; both are pinned (section 8).
            FailedError: no file can be made for it.
        """
        session = self._sessions.get(upload_id)
        if session is None:
            raise no_session(upload_id)
        if not 1 <= number <= MAX_PARTS:
            raise InternalError(f"{NOT_UPLOADED}: part number must be between 1 and {MAX_PARTS}")
        return await self._tasks.settle(
            self._begin_part(session, number, max_bytes),
            abandoned=lambda writer: self._tasks.start(writer.end()),
        )

    async def _begin_part(self, session: Session, number: int, max_bytes: int) -> PartWriter:
        async with session.lock:
            if session.ended:
                raise no_session(session.id)
            await self._remove_strays(session)
            with operation("open", session.path):
                try:
                    file, threads = await self._open_part(session, number, max_bytes)
                except FileNotFoundError:  # somebody has deleted the body
                    await self._forget_lost(session, session.sorted_parts())
                    session.body = None
                    file, threads = await self._open_part(session, number, max_bytes)
            store = partial(self._store_part, session, number, file, threads)
            return PartWriter(session, number, threads, file, store=store, tasks=self._tasks)

    async def _open_part(
        self, session: Session, number: int, max_bytes: int
    ) -> tuple[PartFile, FileThreads]:
        known = session.body, session.slot_bytes
        body = session.body = session.body or await self._make_body(session)
        offset = session.slot_offset(number, max_bytes)
        if known != (session.body, session.slot_bytes):
            await self._own_threads.run(self._metadata.save_session, session)
        threads = self._threads_for(body)
        create = partial(create_file, os.path.dirname(body.path), session.id)
        if offset is None:
            fd, path = await threads.run(create)
            place = Place(path, body.private)
        else:
            place = Place(body.path, body.private, offset, shared=True)
            fd = await threads.run(open_place, place)
        file = PartFile(session.path, fd, place, session.slot_bytes, create)
        if place.shared:
            await threads.run(file.reserve, likely_size(max_bytes))
        return file, threads

    async def _make_body(self, session: Session) -> Place:
        created = await self._threads.run(create_near, session.path, session.id)
        private = created is None and self._fallback.private
        if created is None:
            threads = self._threads_for(self._fallback)
            created = await threads.run(create_file, self._fallback.path, session.id)
        fd, path = created
        os.close(fd)
        return Place(path, private)

    async def _store_part(
        self, session: Session, number: int, file: PartFile, threads: FileThreads
    ) -> Part:
        async with session.lock:
            if session.ended:
                raise no_session(session.id)
            part = Part(number, file.etag, file.size, time.time_ns(), file.place)
            with attempt("failed to save metadata"), operation("write", session.path):
                await self._own_threads.run(self._metadata.save_part, session, part)
            old = session.parts.get(number)
            session.parts[number] = part
            await threads.run(file.keep)
            if old is not None:
                await self._threads_for(old.place).run(remove_part, old)
        return part

    async def complete(
        self,
        upload_id: str,
        wanted: Sequence[tuple[int, str]],
        condition: Condition = UNCONDITIONAL,
    ) -> tuple[Session, os.stat_result]:
        """Let the file have the content of the parts, by their numbers, and end the session.

        Args:
            upload_id: of the session.
            wanted: number and etag of each part; others that have arrived are dropped.
            condition: what must hold of the file.

        Returns:
            The session, and the status of its file.

        Raises:
            InvalidError: no part, or one is named twice.
            NotFoundError: no such session.
            InternalError: a part has not arrived, or is another one; both are pinned (section 8).
            FailedError: the file cannot be written, or parts were deleted; the session stays.
            ForbiddenError: the workload user may not write the file; the session stays.
            PreconditionError: the condition does not hold; the session stays.
        """
        if not wanted:
            raise InvalidError("at least one part is required")
        return await self._tasks.settle(self._complete(self.get(upload_id), wanted, condition))

    async def _complete(
        self, session: Session, wanted: Sequence[tuple[int, str]], condition: Condition
    ) -> tuple[Session, os.stat_result]:
        async with session.lock:
            self.get(session.id)  # another request may have ended it meanwhile
            parts = _wanted_parts(session, wanted)
            if lost := await self._forget_lost(session, parts):
                numbers = ", ".join(str(part.number) for part in lost)
                raise FailedError(
                    f"{_NOT_COMPLETED}: the bytes of part {numbers} were deleted by somebody, "
                    "perhaps with their directory; upload them again"
                )
            status = await self._assemble(session, parts, condition)
            await self._end(session)
        return session, status

    async def _assemble(
        self, session: Session, parts: list[Part], condition: Condition
    ) -> os.stat_result:
        assembly = Assembly(session, parts, self._threads_for, self._threads, sync=self._fsync)
        old = await self._threads.run(hold_file, session.path)
        try:
            return await assembly.run(condition)
        except (FailedError, UnavailableError) as exc:
            what = "parent directory" if exc.message.startswith("mkdir ") else "final file"
            text = f"{_NOT_COMPLETED}: failed to create {what}: {exc.message}"
            kind = ForbiddenError if isinstance(exc.__cause__, PermissionError) else type(exc)
            raise kind(text) from exc.__cause__
        finally:
            if old >= 0:
                self._tasks.start(self._threads.run(os.close, old))

    async def abort(self, upload_id: str) -> None:
        """End a session and forget its parts; one that is on its way fails.

        Raises:
            NotFoundError: no such session.
        """
        await self._tasks.settle(self._abort(self.get(upload_id)))

    async def _abort(self, session: Session) -> None:
        async with session.lock:
            self.get(session.id)
            await self._end(session)

    async def _end(self, session: Session) -> None:
        session.ended = True
        del self._sessions[session.id]
        await self._remove_strays(session)
        places = [part.place for part in session.parts.values() if not part.place.shared]
        if session.body is not None:
            places.append(session.body)
        for private in (False, True):
            paths = [place.path for place in places if place.private is private]
            threads = self._own_threads if private else self._threads
            if paths:
                await threads.run(remove_files, paths)
        await self._own_threads.run(self._metadata.forget, session)

    async def _forget_lost(self, session: Session, parts: list[Part]) -> list[Part]:
        """Forget those of the parts whose bytes somebody has deleted, and return them."""
        lost: list[Part] = []
        for private in (False, True):
            some = [part for part in parts if part.place.private is private]
            threads = self._own_threads if private else self._threads
            lost += await threads.run(find_lost, some) if some else []
        for part in lost:
            del session.parts[part.number]
            await self._own_threads.run(self._metadata.forget_part, session, part)
        return lost

    async def expire(self) -> None:
        """End the sessions that nobody has used for too long."""
        oldest_ns = time.time_ns() - int(self._max_age_s * 1e9)
        for session in self.sessions():
            if not session.writers and session.last_used_ns < oldest_ns:
                log.info("upload expired", extra={"upload": session.id, "path": session.path})
                with suppress(NotFoundError):  # its client has come back just now
                    await self.abort(session.id)

    async def _remove_strays(self, session: Session) -> None:
        if session.restored and session.body is not None:
            session.restored = False
            known = frozenset({session.body.path, *(p.place.path for p in session.parts.values())})
            directory = os.path.dirname(session.body.path)
            threads = self._threads_for(session.body)
            await threads.run(remove_strays, directory, session.id, known)

    def _threads_for(self, place: Place) -> FileThreads:
        return self._own_threads if place.private else self._threads


def _wanted_parts(session: Session, wanted: Sequence[tuple[int, str]]) -> list[Part]:
    parts: dict[int, Part] = {}
    for number, etag in wanted:
        part = session.parts.get(number)
        if part is None:
            raise InternalError(f"{_NOT_COMPLETED}: part {number} not found")
        if part.etag != etag:
            raise InternalError(f"{_NOT_COMPLETED}: etag mismatch for part {number}")
        if number in parts:
            raise InvalidError(f"part {number} is listed twice; list each part once")
        parts[number] = part
    return [parts[number] for number in sorted(parts)]
