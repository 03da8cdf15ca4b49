"""How much disk all output together may take, and what goes first when it is too much.

Nothing is cut while everything fits. Then the oldest ended runs lose their output, then running
ones the head of theirs: behind the slowest follower that still moves where that is enough, past it
where it is not. Whoever reads there is told how many bytes are gone (design.md 4).
"""

import logging
from collections.abc import Iterator
from typing import Protocol

from sandbox_api.core.processes.journal import Position

log = logging.getLogger(__name__)

KEEP_RUNNING_BYTES = 32 << 20
FALLBACK_BYTES = 96 << 20
MEMORY_BYTES = 64 << 20
WORTH_BYTES = 1 << 20
SLACK = 16
"""When it is too much, a sixteenth of the budget more is released, so that not each byte asks."""


class Keeper(Protocol):
    """What has output that can be cut; `Output` is one."""

    end: Position | None

    @property
    def kept_bytes(self) -> int:
        """What it holds of both streams."""

    def cut_to(self, keep_bytes: int, *, spare_followers: bool) -> None:
        """Release the head, so that about `keep_bytes` remain."""


class Budget:
    """All output of the daemon, within a number of bytes.

    Args:
        max_bytes: for all runs together.
        keep_running_bytes: what a running run keeps, or its share of `max_bytes` if that is less.
    """

    def __init__(self, max_bytes: int, keep_running_bytes: int = KEEP_RUNNING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._keep_running_bytes = keep_running_bytes
        self._keepers: dict[Keeper, None] = {}
        self._used = 0
        self._stuck_at = 0

    def add(self, keeper: Keeper) -> None:
        """Count a run; the order in which they come is their age."""
        self._keepers[keeper] = None
        self.changed(keeper.kept_bytes)

    def remove(self, keeper: Keeper) -> None:
        """A run is forgotten; it still tells what it holds."""
        if keeper in self._keepers:
            del self._keepers[keeper]
            self._used -= keeper.kept_bytes

    def changed(self, count: int) -> None:
        """A run holds `count` bytes more, or less."""
        self._used += count
        if count > 0 and self._used > max(self._max_bytes, self._stuck_at):
            self._make_room(self._max_bytes - self._max_bytes // SLACK)

    def relieve(self) -> None:
        """The disk is full, though we are within the budget: the oldest ended run that holds much
        gives way to those that run."""
        for keeper in self._of(running=False):
            if keeper.kept_bytes >= WORTH_BYTES:
                keeper.cut_to(0, spare_followers=False)
                return

    def _make_room(self, target: int) -> None:
        self._release_ended(target)
        for spare_followers in (True, False):
            if self._used > target:
                self._cut_running(spare_followers=spare_followers)
        # a file system without holes gives nothing back: do not try again at each byte
        self._stuck_at = self._used + self._max_bytes // SLACK if self._used > target else 0

    def _release_ended(self, target: int) -> None:
        for keeper in self._of(running=False):
            if self._used <= target:
                return
            keeper.cut_to(0, spare_followers=False)

    def _cut_running(self, *, spare_followers: bool) -> None:
        running = list(self._of(running=True))
        share = self._max_bytes // (len(running) + 1)
        for keeper in running:
            keeper.cut_to(min(self._keep_running_bytes, share), spare_followers=spare_followers)

    def _of(self, *, running: bool) -> Iterator[Keeper]:
        return (keeper for keeper in list(self._keepers) if (keeper.end is None) is running)


def budget_bytes(max_bytes: int, percent: int) -> int:
    """The budget of a daemon that keeps its output on disk.

    Args:
        max_bytes: SANDBOX_MAX_LOG_BYTES_TOTAL, or 0 for a share of the machine's memory.
        percent: SANDBOX_MAX_LOG_PERCENT, of that memory.
    """
    if max_bytes:
        return max_bytes
    try:
        with open("/proc/meminfo", "rb") as file:
            total_kib = next(int(line.split()[1]) for line in file if line.startswith(b"MemTotal:"))
    except (OSError, StopIteration, ValueError):
        return FALLBACK_BYTES
    return total_kib * 1024 * percent // 100
