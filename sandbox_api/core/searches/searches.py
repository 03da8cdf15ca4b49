"""The searches of the sandbox: where they run, for how long, and as whom."""

import asyncio
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Final, TypeVar

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.processes.reaper import Exit, Reaper
from sandbox_api.core.processes.spawn import spawn_worker
from sandbox_api.core.refusals import attempt, operation
from sandbox_api.core.regular import entry_status, follow_status
from sandbox_api.core.searches.find import FindMatch, FindQuery, find
from sandbox_api.core.searches.fuzzy import FuzzyMatch, FuzzyQuery, fuzzy
from sandbox_api.core.searches.grep import Grep, GrepMatch, GrepQuery
from sandbox_api.core.searches.helpers import Helpers
from sandbox_api.core.searches.matching import literal_matcher
from sandbox_api.core.searches.until import Outcome, Until
from sandbox_api.core.searches.worker import (
    WorkerEnd,
    WorkerRequest,
    decode_answer,
    encode_request,
    worker_command,
    worker_environment,
)
from sandbox_api.errors import FailedError, InvalidError, NotFoundError, UnavailableError

T = TypeVar("T")

WALKING: Final = "error walking directory"
SEARCH_THREADS: Final = 2  # more are slower, and hold up the event loop (docs/architecture.md)
MOST_WORKERS: Final = 4  # at a time
GIVE_UP_AFTER_S: Final = 1.0  # after the end of a search's time, when it has not ended itself


class Searches:
    """Searches in the sandbox's files.

    Args:
        threads: where they run, and as whom. Not those of other file work: a search takes long.
        reaper: waits for the processes that apply regular expressions.
        timeout_s: the most seconds that a search may take, its wait for a thread included.
    """

    def __init__(self, threads: FileThreads, reaper: Reaper, *, timeout_s: float) -> None:
        self._threads = threads
        self._reaper = reaper
        self._timeout_s = timeout_s
        self._workers = asyncio.Semaphore(MOST_WORKERS)
        self._helpers = Helpers()

    async def check(self, location: Location) -> None:
        """Refuse what is no directory.

        Raises:
            NotFoundError: it is none, or there is nothing.
            FailedError: the system refused to look.
        """
        await self.run(lambda _: _require_directory(location))

    async def find(self, location: Location, query: FindQuery) -> Outcome[FindMatch]:
        """Find by name; see `find`.

        Raises:
            NotFoundError: there is nothing.
            FailedError: the system refused to read it.
        """

        def run(until: Until) -> Outcome[FindMatch]:
            with attempt(WALKING):
                _look(location, entry_status)
                with operation("open", location.absolute):
                    return find(location.absolute, query, until)

        return await self.run(run)

    async def fuzzy(self, location: Location, query: FuzzyQuery) -> Outcome[FuzzyMatch]:
        """Find by some characters of the path; see `fuzzy`.

        Raises:
            NotFoundError: it is no directory. A plain query finds nothing there.
            FailedError: the system refused to read it.
        """

        def run(until: Until) -> Outcome[FuzzyMatch]:
            # a plain one walks in order, on its own: then the helpers are for other searches
            helpers = nullcontext(0) if query.plain else self._helpers.some()
            with attempt(WALKING):
                _require_directory(location)
                with operation("open", location.absolute), helpers as count:
                    return fuzzy(location.absolute, query, until, helpers=count)

        try:
            return await self.run(run)
        except (NotFoundError, FailedError):
            if not query.plain:
                raise
            return Outcome([], truncated=False, timed_out=False, unreadable=0)

    async def grep(self, location: Location, query: GrepQuery) -> Outcome[GrepMatch]:
        """Search the content of files.

        Raises:
            InvalidError: it is no directory, or the query is no regular expression.
            FailedError: the system refused to read it.
        """
        if query.regex:
            await self.run(lambda _: _require_readable(location))
            return await self._grep_by_worker(location, query)

        def run(until: Until) -> Outcome[GrepMatch]:
            _require_readable(location)
            matches: list[GrepMatch] = []
            matcher = literal_matcher(query.text, case_sensitive=query.case_sensitive)
            with self._helpers.some() as count, attempt(WALKING):
                grep = Grep(location.absolute, query, matcher, until, matches.append, helpers=count)
                with operation("open", location.absolute):
                    grep.run()
            truncated = grep.truncated or until.timed_out
            return Outcome(matches, truncated, until.timed_out, grep.unreadable)

        return await self.run(run)

    async def run(self, search: Callable[[Until], T]) -> T:
        """Run a search on a thread; when the caller is cancelled, it ends soon.

        Raises:
            UnavailableError: no answer came in time, or the daemon stops.
        """
        until = self._until()

        def work() -> T:
            result = search(until)
            if self._threads.closing:
                raise UnavailableError("the daemon stops")
            return result

        try:
            async with asyncio.timeout(self._timeout_s + GIVE_UP_AFTER_S):
                return await self._threads.run(work)
        except TimeoutError:
            raise UnavailableError(
                f"no answer within {self._timeout_s} s: other searches take long, or a file system "
                "does not answer; search a smaller directory"
            ) from None
        finally:
            until.abandoned = True

    def _until(self) -> Until:
        """From now on: a search that waits for its turn uses up its time."""
        return Until(self._timeout_s, lambda: self._threads.closing)

    async def _grep_by_worker(self, location: Location, query: GrepQuery) -> Outcome[GrepMatch]:
        until, who = self._until(), self._threads.identity
        async with self._workers:
            request = WorkerRequest(
                root=location.absolute,
                query=query,
                timeout_s=until.left_s,
                user=None if who is None else (who.uid, who.gid, who.groups),
            )
            with _memory_file(encode_request(request)) as asked, _memory_file() as answered:
                end = await self._await_worker(asked, answered, until.left_s)
                matches, told = await asyncio.to_thread(_read_answer, answered)
        if told is None and end is not None and end.signal != "SIGALRM":
            raise FailedError(
                "the process that searched by the regular expression was ended by something else "
                f"({end.signal or f'exit status {end.code}'}); try again"
            )
        if told is None:
            return Outcome(matches, truncated=True, timed_out=True, unreadable=0)
        if told.invalid:
            raise InvalidError(told.invalid)
        return Outcome(matches, told.truncated, told.timed_out, told.unreadable)

    async def _await_worker(self, asked: int, answered: int, timeout_s: float) -> Exit | None:
        """Run a worker to its end.

        Returns:
            How it ended; None where it had to be killed for it took too long.
        """
        popen = spawn_worker(worker_command(), worker_environment(), asked, answered)
        child = self._reaper.watch(popen)
        try:
            async with asyncio.timeout(timeout_s + GIVE_UP_AFTER_S):
                return await asyncio.shield(child.exited)
        except TimeoutError:
            return None
        finally:
            child.send(signal.SIGKILL)


@contextmanager
def _memory_file(content: bytes = b"") -> Iterator[int]:
    """A file in memory, at its beginning, while the context lasts (memfd_create(2))."""
    fd = os.memfd_create("search", os.MFD_CLOEXEC)
    try:
        os.pwrite(fd, content, 0)
        yield fd
    finally:
        os.close(fd)


def _read_answer(fd: int) -> tuple[list[GrepMatch], WorkerEnd | None]:
    return decode_answer(os.pread(fd, os.fstat(fd).st_size, 0))


def _look(location: Location, status_of: Callable[[Location], os.stat_result]) -> os.stat_result:
    """The status of the start of a search."""
    try:
        return status_of(location)
    except NotFoundError:
        raise NotFoundError(
            f"{WALKING}: lstat {printable(location.absolute)}: no such file or directory"
        ) from None


def _require_directory(location: Location) -> None:
    if not stat.S_ISDIR(_look(location, follow_status).st_mode):
        raise NotFoundError(f"{WALKING}: {printable(location.absolute)} is no directory")


def _require_readable(location: Location) -> None:
    """Refuse to search the content of what is no directory that can be read."""
    try:
        _require_directory(location)
    except NotFoundError:
        raise InvalidError(
            f"specified directory does not exist: {printable(location.absolute)}; send the path of "
            "a directory, and filePattern for one file"
        ) from None
    with attempt(WALKING), operation("open", location.absolute):
        os.scandir(location.absolute).close()
