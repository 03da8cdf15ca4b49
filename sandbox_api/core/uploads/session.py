"""One multipart session, its parts, and where in a file each part lies.

Both SDKs send parts of one size but the last. So the parts of a session are written to their places
in one sparse file, the body: part N begins at (N - 1) times the size of the first part. When all
parts lie so, the body is the file, and nothing is copied. What does not fit gets a file of its own.
"""

import asyncio
from dataclasses import dataclass, field

MAX_SLOT_OFFSET = 1 << 40  # of a sparse file: some file systems end not far beyond


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie.

    Attributes:
        path: the file.
        private: whether it lies in the state directory, where only the daemon itself may go.
        offset: of the first byte.
        shared: whether the file is the body, which holds other parts too.
    """

    path: str
    private: bool
    offset: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part that has arrived whole.

    Attributes:
        number: from 1.
        etag: MD5 of its bytes in hexadecimal digits.
        size: bytes.
        uploaded_at_ns: nanoseconds since the epoch.
        place: where its bytes lie.
    """

    number: int
    etag: str
    size: int
    uploaded_at_ns: int
    place: Place


@dataclass(slots=True, eq=False)
class Session:
    """One upload.

    Attributes:
        id: names it in requests.
        path: of the file that it becomes, absolute.
        mode: permission bits of that file where it does not exist.
        initiated_at_ns: nanoseconds since the epoch.
        body: the file in which parts have their places; None until the first part comes.
        slot_bytes: from one place to the next; 0 until the first part tells its size.
        parts: by number.
        lock: held while parts are swapped, and while it is completed or aborted.
        taken: numbers whose place in the body is being written.
        writers: parts that are on their way.
        restored: by a daemon that has not looked yet for what the last one left unfinished.
        ended: completed or aborted.
    """

    id: str
    path: str
    mode: int
    initiated_at_ns: int
    body: Place | None = None
    slot_bytes: int = 0
    parts: dict[int, Part] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    taken: set[int] = field(default_factory=set)
    writers: int = 0
    restored: bool = False
    ended: bool = False

    @property
    def last_used_ns(self) -> int:
        """When something last came, in nanoseconds since the epoch."""
        return max([self.initiated_at_ns, *(part.uploaded_at_ns for part in self.parts.values())])

    def sorted_parts(self) -> list[Part]:
        """All parts that have arrived, by number."""
        return [self.parts[number] for number in sorted(self.parts)]

    def slot_offset(self, number: int, max_bytes: int) -> int | None:
        """Where in the body a new part may be written; None where it needs a file of its own.

        The place of a part that has arrived is never written again while the part is needed.

        Args:
            number: of the part.
            max_bytes: the most bytes that it can have; 0 where that is unknown.
        """
        if not self.slot_bytes and max_bytes:
            self.slot_bytes = likely_size(max_bytes)
        current = self.parts.get(number)
        offset = (number - 1) * self.slot_bytes
        if (
            not 0 < likely_size(max_bytes) <= self.slot_bytes
            or number in self.taken
            or (current is not None and current.place.shared)
            or offset > MAX_SLOT_OFFSET
        ):
            return None
        return offset

    def fit_body(self, parts: list[Part]) -> bool:
        """Whether the body, once all of these lie in their places, is the file.

        It must not be touched where it holds something else that may still be needed: a part that
        is on its way, or one that was not asked for.

        Args:
            parts: by number.
        """
        if self.body is None or self.taken or len(parts) < len(self.parts):
            return False
        numbers = [part.number for part in parts]
        sizes = [part.size for part in parts]
        return (
            numbers == list(range(1, len(parts) + 1))
            and all(size == self.slot_bytes for size in sizes[:-1])
            and (len(parts) == 1 or sizes[-1] <= self.slot_bytes)
        )


def likely_size(max_bytes: int) -> int:
    """The size of a part of which only the most is known: the rounder of two numbers.

    Whether a form ends with a line break, which does not count, is seen only at its end.
    """
    return max((max_bytes - 2, max_bytes), key=lambda size: size & -size) if max_bytes > 0 else 0
