"""Parts become the file.

Where all parts lie in their places the body is the file, and only its name changes. Where a few do
not, they are copied there first. Else all are copied into a new file, by the kernel.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sandbox_api.core.adopted import AdoptedFile
from sandbox_api.core.atomic import AtomicFile
from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.ranges import copy_range
from sandbox_api.core.refusals import operation
from sandbox_api.core.uploads.session import Part, Place, Session
from sandbox_api.core.uploads.storage import open_place


class Assembly:
    """One session's parts on their way to its file; the session's lock is held.

    Nothing that the session still needs is changed before the file has its new content.

    Args:
        session: the session.
        parts: of the session, by number.
        threads_for: the threads that may open a place.
        threads: those that act as the workload user.
        sync: whether to wait for the disk.
    """

    def __init__(
        self,
        session: Session,
        parts: list[Part],
        threads_for: Callable[[Place], FileThreads],
        threads: FileThreads,
        *,
        sync: bool,
    ) -> None:
        self._session = session
        self._parts = parts
        self._threads_for = threads_for
        self._threads = threads
        self._sync = sync

    async def run(self, condition: Condition = UNCONDITIONAL) -> os.stat_result:
        """Write the file; returns its status.

        Args:
            condition: what must hold of what is there.

        Raises:
            FailedError: what was there is still there, and all parts are.
            PreconditionError: the same, since the condition does not hold.
        """
        body = self._session.body
        if body is not None and not body.private and self._session.fit_body(self._parts):
            return await self._adopt(body, condition)
        return await self._copy(condition)

    async def _adopt(self, body: Place, condition: Condition) -> os.stat_result:
        path = self._session.path
        with operation("open", path):
            fd = await self._threads_for(body).run(open_place, body)
        file = AdoptedFile(path, body.path, fd, sync=self._sync, condition=condition)
        try:
            for part in self._parts:
                if part.size and not part.place.shared:
                    await self._fill(fd, part)
            await self._threads.run(os.ftruncate, fd, sum(part.size for part in self._parts))
            return await self._threads.run(file.commit, self._session.mode)
        finally:
            await self._threads.run(file.discard)

    async def _fill(self, body: int, part: Part) -> None:
        """Copy a part to its place, which no other part holds."""
        offset = (part.number - 1) * self._session.slot_bytes

        def copy(source: int) -> None:
            os.lseek(body, offset, os.SEEK_SET)
            copy_range(source, body, part.place.offset, part.size)

        async with self._open(part) as source:
            with operation("write", self._session.path):
                await self._threads.run(copy, source)

    async def _copy(self, condition: Condition) -> os.stat_result:
        file = AtomicFile(self._session.path, sync=self._sync, condition=condition)
        try:
            for part in filter(lambda part: part.size, self._parts):
                async with self._open(part) as source:
                    await self._threads.run(file.append_range, source, part.place.offset, part.size)
            return await self._threads.run(file.commit, self._session.mode)
        finally:
            await self._threads.run(file.discard)

    @asynccontextmanager
    async def _open(self, part: Part) -> AsyncIterator[int]:
        with operation("open", self._session.path):
            source = await self._threads_for(part.place).run(open_place, part.place)
        try:
            yield source
        finally:
            os.close(source)
