"""Threads beside those of the searches, so that a search that is alone has all cores."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager, suppress
from threading import Semaphore
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST_HELPERS: Final = 3
HELPER_NICENESS: Final = 5  # what else runs comes first: on Linux this is for one thread


class Helpers:
    """How many helpers there may be, for all searches together: one for each core but one.

    So many searches at once do not crowd out the event loop.
    """

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        self._free = Semaphore(min(cores - 1, MOST_HELPERS))

    @contextmanager
    def some(self) -> Iterator[int]:
        """How many a search may start that lasts as long as the context."""
        count = 0
        try:
            while self._free.acquire(blocking=False):
                count += 1
            yield count
        finally:
            for _ in range(count):
                self._free.release()


class Task(Generic[T]):
    """A piece of work, for a helper or for whoever needs what comes of it.

    Args:
        work: is done once.
        future: of a helper that is to do it; None, and it is done here and now.
    """

    def __init__(self, work: Callable[[], T], future: Future[T] | None = None) -> None:
        self._work = work
        self._future = _done(work()) if future is None else future

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def ends_within(self, seconds: float) -> bool:
        """Wait for it, but not long; says whether it is done."""
        with suppress(TimeoutError):
            self._future.exception(seconds)
        return self.is_done

    def result(self) -> T:
        """What comes of it; where no helper has begun, or will, it is done now."""
        try:
            return self._work() if self._future.cancel() else self._future.result()
        except BrokenThreadPool:
            return self._work()


class Team:
    """The helpers of one search, while the context lasts; what they have not begun then is dropped.

    They act as the user of the thread that calls `start`: Linux gives a new thread the identity of
    the one that starts it (credentials(7)).

    Args:
        count: the most.

    Attributes:
        count: how many there may be; 0 as soon as one cannot be had.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(max(1, count), "search-helper", _let_others_go_first)

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def start(self, work: Callable[[], T]) -> Task[T]:
        """Have work done by the next helper that is free, or at once where there can be none."""
        try:
            return Task(work, self._threads.submit(work))
        except RuntimeError:  # no more threads, or they have broken
            self.count = 0
            return Task(work)


def _let_others_go_first() -> None:
    with suppress(OSError):  # a filter of system calls refuses it
        os.nice(HELPER_NICENESS)


def _done(value: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(value)
    return future
