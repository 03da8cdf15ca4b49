"""Wire models of codegen (spec/mcp-codegen.md 6)."""

from sandbox_api.api.schemas.base import WireModel


class FastApplyRequest(WireModel):
    """An edit: what changes, with comments in place of what stays."""

    code_edit: str
    model: str = ""


class FastApplyReply(WireModel):
    """A file before and after an edit."""

    success: bool
    path: str
    original_content: str
    updated_content: str
    provider: str
    message: str


class RankedFile(WireModel):
    """A file that fits."""

    path: str
    content: str
    score: float


class RerankingReply(WireModel):
    """The files that fit; `truncated` says that not all of the directory was ranked."""

    success: bool
    files: list[RankedFile]
    message: str
    truncated: bool
