"""Wire models of copies and moves (spec/sdk-clients.md 3.1)."""

from pydantic import Field

from sandbox_api.api.schemas.base import WireModel


class CopyRequest(WireModel):
    """What goes where; `noOverwrite` refuses a destination that exists."""

    source: str = Field(min_length=1)
    destination: str = Field(min_length=1)
    no_overwrite: bool = False


class CopyReply(WireModel):
    """What went where; source and destination as they were asked for, `path` is the final name."""

    message: str
    source: str
    destination: str
    path: str
