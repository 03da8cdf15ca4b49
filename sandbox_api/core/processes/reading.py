"""Somebody who reads a run's output: what must be known of it when space gets short."""

from dataclasses import dataclass

from sandbox_api.core.processes.journal import Position

STALLED_S = 10.0


@dataclass(slots=True, eq=False)
class Reading:
    """Somebody who reads.

    Attributes:
        position: how far a follower has come; None for who reads all at once.
        behind_since: loop time since which there is more for it that it did not ask for; None when
            it has all.
    """

    position: Position | None = None
    behind_since: float | None = None

    def spare(self, until: Position, now: float) -> Position:
        """Where a cut that should go up to `until` must stop for this one, if it moves.

        Args:
            until: a place in the output.
            now: loop time.
        """
        place, since = self.position, self.behind_since
        if place is None or (since is not None and now - since > STALLED_S):
            return until
        return Position(min(until.stdout, place.stdout), min(until.stderr, place.stderr))
