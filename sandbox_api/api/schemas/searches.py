"""Wire models of searches (spec/filesystem.md 9 to 11).

Beside its matches every search tells their number, whether there may be more, whether that is
because its time was over, and how many directories and files could not be read.
"""

from typing import Annotated, Literal

from pydantic import Field

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.schemas.files import RawPath

EntryType = Literal["file", "directory"]


class FindMatch(WireModel):
    """An entry, by its path relative to the start; `.` is the start itself."""

    path: str
    type: EntryType
    raw_path: RawPath


class FindReply(WireModel):
    """What was found by name."""

    matches: list[FindMatch]
    total: int
    truncated: bool
    timed_out: bool
    unreadable: int


class FuzzyMatch(WireModel):
    """An entry that holds the query's characters in order, or is like it."""

    path: str
    score: int
    type: EntryType
    raw_path: RawPath
    approximate: Annotated[bool, Field(exclude_if=lambda approximate: not approximate)]


class FuzzyReply(WireModel):
    """What was found by characters of the path, the best first."""

    matches: list[FuzzyMatch]
    total: int
    truncated: bool
    timed_out: bool
    unreadable: int


class ContentMatch(WireModel):
    """A line that matches."""

    path: str
    line: int
    column: int
    text: str
    context: Annotated[str | None, Field(exclude_if=lambda context: context is None)]
    raw_path: RawPath


class ContentReply(WireModel):
    """The lines that match."""

    query: str
    matches: list[ContentMatch]
    total: int
    truncated: bool
    timed_out: bool
    unreadable: int
