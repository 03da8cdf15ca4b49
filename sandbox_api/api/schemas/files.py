"""Wire models of files and directories (spec/filesystem.md 4 and 5)."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated
from urllib.parse import quote

from pydantic import BeforeValidator, Field

from sandbox_api.api.schemas.base import PathReply, WireModel
from sandbox_api.core.paths import mode_text

_FIRST_SECOND = -62_135_596_800  # of the year 1
_LAST_SECOND = 253_402_300_799  # of the year 9999


def rfc3339(time_ns: int) -> str:
    """A time in UTC with up to nine digits of a second's fraction, trailing zeros trimmed.

    Args:
        time_ns: nanoseconds since the epoch; years that RFC 3339 cannot tell become the nearest.
    """
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    text = _seconds_text(seconds)
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else f"{text}Z"


@lru_cache(1024)  # files that were made together share their second
def _seconds_text(seconds: int) -> str:
    seconds = max(_FIRST_SECOND, min(seconds, _LAST_SECOND))
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def _percent_encoded(raw: object) -> object:
    return quote(raw, safe="") if isinstance(raw, bytes) else raw


Mode = Annotated[str, BeforeValidator(mode_text)]
Time = Annotated[str, BeforeValidator(rfc3339)]
RawPath = Annotated[
    str | None,
    BeforeValidator(_percent_encoded),
    Field(default=None, exclude_if=lambda raw: raw is None),
]
"""The path as it goes into a URL; only where `path` is not UTF-8 and so cannot say it."""


class FileReply(WireModel):
    """A file in a listing."""

    path: str
    name: str
    permissions: Annotated[Mode, Field(validation_alias="mode")]
    size: int
    last_modified: Annotated[Time, Field(validation_alias="mtime_ns")]
    owner: str
    group: str
    raw_path: RawPath


class FileContentReply(FileReply):
    """A file with its content."""

    content: str
    encoding: str


class SubdirectoryReply(WireModel):
    """A directory in a listing."""

    path: str
    name: str
    raw_path: RawPath


def _cursor(after: object) -> object:
    return urlsafe_b64encode(after).decode() if isinstance(after, bytes) else after


class DirectoryReply(WireModel):
    """A directory's listing, or a page of it."""

    path: str
    name: str
    files: list[FileReply]
    subdirectories: list[SubdirectoryReply]
    raw_path: RawPath
    next_cursor: Annotated[
        str | None,
        BeforeValidator(_cursor),
        Field(
            default=None, validation_alias="next_after", exclude_if=lambda cursor: cursor is None
        ),
    ]


class UploadProgressReply(PathReply):
    """An upload that is not complete: where it goes on."""

    offset: int
    total: int


class WriteFileRequest(WireModel):
    """What to write."""

    content: str = ""
    is_directory: bool = False
    permissions: str = ""
