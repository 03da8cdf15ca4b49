"""Wire models of multipart sessions (spec/filesystem.md 8)."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.schemas.files import RawPath, Time


class InitiateUploadReply(WireModel):
    """A new session."""

    upload_id: str
    path: str
    raw_path: RawPath


class PartReply(WireModel):
    """A part that has just arrived."""

    part_number: Annotated[int, Field(validation_alias="number")]
    etag: str
    size: int


class StoredPartReply(PartReply):
    """A part of a session."""

    uploaded_at: Annotated[Time, Field(validation_alias="uploaded_at_ns")]


class PartsReply(WireModel):
    """The parts of a session, by number."""

    upload_id: str
    parts: list[StoredPartReply]


def _by_number(parts: object) -> object:
    return {str(n): parts[n] for n in sorted(parts)} if isinstance(parts, dict) else parts


class UploadReply(WireModel):
    """A session; its permissions are a decimal number."""

    upload_id: str
    path: str
    raw_path: RawPath
    permissions: int
    initiated_at: Time
    parts: Annotated[dict[str, StoredPartReply], BeforeValidator(_by_number)]


class UploadsReply(WireModel):
    """All sessions that are open."""

    uploads: list[UploadReply]


class UploadedPartRequest(WireModel):
    """A part as its upload was answered; other keys of that answer do not count."""

    part_number: int = 0
    etag: str = ""

    @model_validator(mode="before")
    @classmethod
    def _forgive(cls, value: object) -> object:
        """Keys in any case, `null` is absent: as everywhere in bodies."""
        if not isinstance(value, dict):
            return value
        names = {"partnumber": "partNumber"}
        return {
            names.get(str(key).lower(), str(key).lower()): item
            for key, item in value.items()
            if item is not None
        }


class CompleteUploadRequest(WireModel):
    """Which parts make the file."""

    parts: Annotated[list[UploadedPartRequest], Field(default_factory=list)]


class InitiateUploadRequest(WireModel):
    """What the file will be."""

    permissions: str = ""
