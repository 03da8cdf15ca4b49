"""What all wire models share."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """camelCase on the wire, built from a core value's attributes, types taken strictly."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        from_attributes=True,
        strict=True,
        extra="ignore",
    )


class ErrorReply(WireModel):
    """Every failure: what was wrong, with which value, and what to do."""

    error: str


class MessageReply(WireModel):
    """A success that has nothing more to tell."""

    message: str


class PathReply(WireModel):
    """A success about a path; `path` stands even when it is empty."""

    path: str
    message: str
