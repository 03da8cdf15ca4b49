"""When a search ends before it has seen everything, and what it then has."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

M = TypeVar("M")

MOST_MATCHES = 500_000
"""What a search without a limit returns at most: nothing here is without an end."""


class Until:
    """Asked now and then by a search whether to end.

    Args:
        timeout_s: the most seconds that it may take from now on.
        closing: says that the daemon stops.

    Attributes:
        end_s: when its time is over, as `time.monotonic` counts.
        timed_out: whether the time was over when it was last asked.
        abandoned: to be set when nobody waits for the result any more.
    """

    def __init__(self, timeout_s: float, closing: Callable[[], bool] = lambda: False) -> None:
        self.timed_out = False
        self.abandoned = False
        self.end_s = monotonic() + timeout_s
        self._closing = closing

    @property
    def left_s(self) -> float:
        """The seconds that are left, and a little where none are."""
        return max(self.end_s - monotonic(), 0.01)

    def __call__(self) -> bool:
        if monotonic() >= self.end_s:
            self.timed_out = True
        return self.timed_out or self.abandoned or self._closing()


@dataclass(frozen=True, slots=True)
class Outcome(Generic[M]):
    """What a search has found.

    Attributes:
        matches: in the order in which they are told.
        truncated: whether there may be more: a limit was reached, or the time was over.
        timed_out: whether it was the time.
        unreadable: how many directories and files could not be read.
    """

    matches: list[M]
    truncated: bool
    timed_out: bool
    unreadable: int
