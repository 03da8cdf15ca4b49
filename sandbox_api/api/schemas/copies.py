"""Wire models of copies and moves (spec/sdk-clients.md 3.1)."""

from pydantic import Field

from sandbox_api.api.schemas.base import WireModel
from sandbox_api.api.schemas.files import RawPath


class CopyRequest(WireModel):
    """What goes where; `noOverwrite` refuses a destination that exists.

    A name that is not UTF-8 stands in no JSON, so `rawSource` and `rawDestination` count before the
    others: a path as it goes into a URL, as listings tell it.
    """

    source: str = Field(min_length=1)
    destination: str = Field(min_length=1)
    raw_source: str = ""
    raw_destination: str = ""
    no_overwrite: bool = False


class CopyReply(WireModel):
    """What went where; source and destination as they were asked for, `path` is the final name."""

    message: str
    source: str
    destination: str
    path: str
    raw_path: RawPath
