"""Wire models of trees (spec/filesystem.md 7, spec/sdk-clients.md 3.1)."""

from typing import Annotated, Literal

from pydantic import Field

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.schemas.files import FileReply, RawPath, SubdirectoryReply

OptionalText = Annotated[str | None, Field(default=None, exclude_if=lambda text: text is None)]


class TreeFileReply(FileReply):
    """A file of a tree; `content` only where it was asked for and can be read."""

    content: OptionalText
    encoding: OptionalText
    error: OptionalText


class TreeReply(WireModel):
    """All that is below a directory; clients refuse an answer without `recursive`."""

    path: str
    name: str
    files: list[TreeFileReply]
    subdirectories: list[SubdirectoryReply]
    raw_path: RawPath
    recursive: Literal[True] = True
    unreadable: int


class WriteTreeRequest(WireModel):
    """Files by path relative to the directory; null is an empty file."""

    files: dict[str, str | None] = Field(default_factory=dict)
