"""One part that is on its way."""

from collections.abc import Callable, Coroutine
from typing import Any

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.tasks import Tasks
from sandbox_api.core.uploads.session import Part, Session
from sandbox_api.core.uploads.storage import PartFile
from sandbox_api.core.writer import PieceWriter
from sandbox_api.errors import InternalError

NOT_UPLOADED = "failed to upload part"


class PartWriter(PieceWriter):
    """Streams into a part; leaving the context without `commit` forgets it.

    Args:
        session: the session; its lock is held.
        number: of the part.
        threads: those that may write the file.
        file: the part's bytes; from here on this is its only owner.
        store: swaps the part in.
        tasks: see to it that what has begun ends.
    """

    def __init__(
        self,
        session: Session,
        number: int,
        threads: FileThreads,
        file: PartFile,
        *,
        store: Callable[[], Coroutine[Any, Any, Part]],
        tasks: Tasks,
    ) -> None:
        super().__init__(threads, file)
        self._session = session
        self._number = number
        self._takes_slot = file.place.shared
        self._store = store
        self._tasks = tasks
        session.writers += 1
        if self._takes_slot:
            session.taken.add(number)

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            InternalError: the session has ended.
            FailedError: `write A: …`, as when the disk is full.
        """
        if self._session.ended:
            raise no_session(self._session.id)
        await super().write(data)

    async def commit(self) -> Part:
        """Swap the part in, in place of an older one of its number.

        Raises:
            InternalError: the session has ended.
            FailedError: the part could not be written, or not be recorded.
        """
        await self.written()
        return await self._tasks.settle(self._store())

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.settle(self.end())

    async def end(self) -> None:
        """Close, forget the part unless it was stored, and let others have its place."""
        async with self._session.lock:  # a swap that is under way ends before
            await super().__aexit__()
            self._session.writers -= 1
            if self._takes_slot:
                self._session.taken.discard(self._number)


def no_session(upload_id: str) -> InternalError:
    """What the reference says to a part of a session that it does not know: a 500 (section 8)."""
    return InternalError(f"{NOT_UPLOADED}: upload not found: {upload_id}")
