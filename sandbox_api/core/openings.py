"""What became of the open ports: a numbered history of limited length, to be resumed by number."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sandbox_api.core.ports import Place

MAX_EVENTS = 1024


class Holder(NamedTuple):
    """Who has opened a port, as far as that is ours to see.

    Attributes:
        pid: the kernel's number.
        name: of the program.
        process: the name of the process of ours that it belongs to.
        started_at: when the program began, seconds since the epoch.
    """

    pid: int | None = None
    name: str = ""
    process: str | None = None
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A port from when it was opened until it is closed.

    Attributes:
        place: where.
        inodes: of its sockets.
        holder: who.
        first_seen_at: seconds since the epoch, where its opening was watched; else None.
        number: of the event that told of it.
    """

    place: Place
    inodes: frozenset[int]
    holder: Holder
    first_seen_at: float | None
    number: int


class Kind(StrEnum):
    """What can happen to a port."""

    OPEN = "open"
    CLOSE = "close"


class PortEvent(NamedTuple):
    """One thing that happened; `at` is in seconds since the epoch."""

    number: int
    kind: Kind
    at: float
    opening: Opening


class History:
    """The ports that are open, and the last events.

    Args:
        first_number: the number before the first event's. Numbers of an earlier daemon must be
            lower, so that they are known to be none of ours.
    """

    def __init__(self, first_number: int) -> None:
        self.open: dict[Place, Opening] = {}
        self.number = first_number
        self._events: deque[PortEvent] = deque(maxlen=MAX_EVENTS)

    def inodes(self) -> dict[Place, frozenset[int]]:
        """What is known to be open, in the form of `core.ports.open_places`."""
        return {place: opening.inodes for place, opening in self.open.items()}

    def update(
        self,
        seen: Mapping[Place, frozenset[int]],
        holders: Mapping[int, Holder],
        now: float,
        *,
        watched: bool,
    ) -> None:
        """Take over what is open now.

        Args:
            seen: each place with the inodes of its sockets.
            holders: of the new ones, by inode.
            now: seconds since the epoch.
            watched: whether the last look was so short ago that what is new has just been opened.
        """
        for place in sorted(self.open):
            if is_new(seen.get(place, frozenset()), self.open[place].inodes):
                self._tell(Kind.CLOSE, now, self.open.pop(place))
        for place in sorted(seen):
            known = self.open.get(place)
            if known is None:
                self._open(place, seen[place], holders, now if watched else None, now)
            elif known.inodes != seen[place]:
                self.open[place] = Opening(
                    place, seen[place], known.holder, known.first_seen_at, known.number
                )

    def _open(
        self,
        place: Place,
        inodes: frozenset[int],
        holders: Mapping[int, Holder],
        first_seen_at: float | None,
        now: float,
    ) -> None:
        holder = next((holders[i] for i in sorted(inodes) if i in holders), Holder())
        opening = Opening(place, inodes, holder, first_seen_at, self.number + 1)
        self.open[place] = opening
        self._tell(Kind.OPEN, now, opening)

    def _tell(self, kind: Kind, now: float, opening: Opening) -> None:
        self.number += 1
        self._events.append(PortEvent(self.number, kind, now, opening))

    def since(self, number: int) -> Sequence[PortEvent] | None:
        """The events after a number; None where some of them are gone, or it is none of ours."""
        missing = self.number - number
        if not 0 <= missing <= len(self._events):
            return None
        return [event for event in self._events if event.number > number] if missing else ()

    def state(self, now: float) -> Sequence[PortEvent]:
        """What is open, each as the event that told of it, in their order.

        Args:
            now: for those whose opening nobody watched, seconds since the epoch.
        """
        openings: Iterable[Opening] = sorted(self.open.values(), key=lambda one: one.number)
        return [PortEvent(one.number, Kind.OPEN, one.first_seen_at or now, one) for one in openings]


def is_new(inodes: frozenset[int], known: frozenset[int]) -> bool:
    """Whether no socket is left of those that were known: closed, or opened again."""
    return inodes.isdisjoint(known)
