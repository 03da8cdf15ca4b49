"""Tools that need a codegen key: edits by an apply model, and files ranked by another."""

import math
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from sandbox_api.api.mcp.schemas import Arguments, Integer, OptionalText, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool, failing
from sandbox_api.api.ranking import DEFAULT_THRESHOLD, DEFAULT_TOKENS, ranking_message, told_files
from sandbox_api.api.schemas.codegen import RankedFile
from sandbox_api.api.wire import CODEGEN, FILE_THREADS, FILES
from sandbox_api.core.codegen.codegen import RankQuery, Region
from sandbox_api.core.paths import printable
from sandbox_api.core.regular import is_directory_at
from sandbox_api.errors import InvalidError


def _number(value: object) -> object:
    """A whole number is a number; what is infinite is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it is not finite")
    return value


Number = Annotated[float, BeforeValidator(_number)]


class EditArguments(Arguments):
    target_file: str = Field(description="File to change or make")
    instructions: str = Field(description="One sentence that says what the edit does")
    code_edit: str = Field(
        description="Only the lines that change, with comments such as // ... existing code ... "
        "in place of unchanged ones"
    )


class ReapplyArguments(Arguments):
    target_file: str = Field(description="File whose last edit is applied again")


class RegionArguments(Arguments):
    relative_workspace_path: str = Field(description="File")
    start_line: Integer | None = Field(None, description="First line, from 1 on")
    end_line: Integer | None = Field(None, description="Last line")


class ParallelArguments(Arguments):
    edit_plan: str = Field(description="The edit that every region gets, in detail")
    edit_regions: list[RegionArguments] | None = Field(description="Where it is applied")


class RerankArguments(Arguments):
    path: str = Field(description="Directory whose files are ranked")
    query: str = Field(description="What the files are wanted for")
    score_threshold: Number | None = Field(None, description="The least score, 0.5 by default")
    token_limit: Integer | None = Field(None, description="Tokens of the files, 30000 by default")
    file_pattern: str | None = Field(None, description="Regular expression for their paths")


class EditResult(Result):
    success: bool
    message: str
    file_path: OptionalText = ""
    changes_applied: OptionalText = ""


class MessageResult(Result):
    success: bool
    message: str


class RerankResult(Result):
    success: bool
    message: str
    files: list[RankedFile]


async def edit(call: Call, wanted: EditArguments) -> EditResult:
    location = call.app[FILES].resolve(wanted.target_file)
    with failing("failed to apply edit"):
        if await call.app[FILE_THREADS].run(is_directory_at, location):
            raise InvalidError("path is a directory, not a file")
        call.audit("codegen_apply", path=location.absolute)
        await call.app[CODEGEN].apply(location, wanted.code_edit)
    return EditResult(
        success=True,
        message=f"Successfully applied edit to {wanted.target_file}: {wanted.instructions}",
        file_path=wanted.target_file,
        changes_applied=wanted.code_edit,
    )


async def reapply(call: Call, wanted: ReapplyArguments) -> MessageResult:
    location = call.app[FILES].resolve(wanted.target_file)
    call.audit("codegen_apply", path=location.absolute)
    with failing("failed to reapply edit"):
        await call.app[CODEGEN].reapply(location)
    message = f"Successfully applied the last edit to {wanted.target_file} again"
    return MessageResult(success=True, message=message)


async def apply_in_parallel(call: Call, wanted: ParallelArguments) -> MessageResult:
    with failing("failed to apply edits"):
        if not wanted.edit_regions:
            raise InvalidError("editRegions must name at least one region")
        regions = [_region(call, one) for one in wanted.edit_regions]
        call.audit("codegen_apply", path=", ".join({one.location.absolute for one in regions}))
        files = await call.app[CODEGEN].apply_to_regions(wanted.edit_plan, regions)
    message = f"Successfully applied the edit to {len(regions)} regions in {files} files"
    return MessageResult(success=True, message=message)


def _region(call: Call, wanted: RegionArguments) -> Region:
    if wanted.start_line is None or wanted.end_line is None:
        raise InvalidError(
            f"{printable(wanted.relative_workspace_path)}: startLine and endLine are needed"
        )
    location = call.app[FILES].resolve(wanted.relative_workspace_path)
    return Region(location, wanted.start_line, wanted.end_line)


async def rerank(call: Call, wanted: RerankArguments) -> RerankResult:
    location = call.app[FILES].resolve(wanted.path)
    if not await call.app[FILE_THREADS].run(is_directory_at, location):
        raise InvalidError(f"path is not a directory: {printable(location.absolute)}")
    query = RankQuery(
        text=wanted.query,
        threshold=(DEFAULT_THRESHOLD if wanted.score_threshold is None else wanted.score_threshold),
        token_limit=DEFAULT_TOKENS if wanted.token_limit is None else wanted.token_limit,
        pattern=wanted.file_pattern or "",
    )
    call.audit("codegen_rank", path=location.absolute)
    with failing("failed to rerank documents"):
        ranking = await call.app[CODEGEN].rank(location, query)
    return RerankResult(success=True, message=ranking_message(ranking), files=told_files(ranking))


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "codegenEditFile",
        "Propose an edit to an existing file, or a new file. A weaker model applies it, so make "
        "clear what the edit is, write only the lines that change, and stand for unchanged code "
        "with comments such as // ... existing code ...",
        EditArguments,
        EditResult,
        edit,
        Hints(title="Edit a file by a sketch", destructive=True, open_world=True),
    ),
    Tool(
        "codegenReapply",
        "Apply the last edit of a file once more, to what it was before, by a more careful model "
        "where the service has one. Use it right after a codegenEditFile that went wrong.",
        ReapplyArguments,
        MessageResult,
        reapply,
        Hints(title="Apply an edit again", destructive=True, open_world=True),
    ),
    Tool(
        "codegenParallelApply",
        "Make similar edits in several places: one plan, applied to each region of lines.",
        ParallelArguments,
        MessageResult,
        apply_in_parallel,
        Hints(title="Edit several places", destructive=True, open_world=True),
    ),
    Tool(
        "codegenRerank",
        "Rank the source files of a directory by how well they fit a query; a first look at code "
        "you do not know. Their contents are sent to the codegen service, but for hidden and "
        "ignored files and those that may be secrets.",
        RerankArguments,
        RerankResult,
        rerank,
        Hints(title="Rank files", read_only=True, open_world=True),
    ),
)
