"""Tools that look at code: lines of a file, a directory."""

from typing import Final

from pydantic import Field

from sandbox_api.api.mcp.files import MOST_ENTRIES, read_directory
from sandbox_api.api.mcp.schemas import Arguments, Integer, OptionalText, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool, failing
from sandbox_api.api.schemas.files import DirectoryReply
from sandbox_api.api.wire import FILE_THREADS, FILES
from sandbox_api.core.directories import Page
from sandbox_api.core.lines import read_lines
from sandbox_api.core.searches.until import Until

MOST_LINES: Final = 250
READ_TIMEOUT_S: Final = 10.0  # to come to a line far behind in a huge file


class RangeArguments(Arguments):
    target_file: str = Field(description="File, absolute or relative to the working directory")
    start_line_one_indexed: Integer = Field(description="First line, from 1 on")
    end_line_one_indexed_inclusive: Integer = Field(
        description="Last line; at most 250 lines are returned"
    )


class ListDirArguments(Arguments):
    relative_workspace_path: str = Field(
        description="Directory, relative to the working directory or absolute"
    )


class RangeResult(Result):
    success: bool
    content: str
    file: str
    message: OptionalText = ""


class ListDirResult(Result):
    success: bool
    directory: DirectoryReply


async def read_range(call: Call, wanted: RangeArguments) -> RangeResult:
    start, end = wanted.start_line_one_indexed, wanted.end_line_one_indexed_inclusive
    last = min(end, start + MOST_LINES - 1)
    location = call.app[FILES].resolve(wanted.target_file)
    with failing("failed to read file", "error reading file"):
        until = Until(READ_TIMEOUT_S)
        content = await call.app[FILE_THREADS].run(read_lines, location, start, last, until)
    message = ""
    if last < end:
        message = f"Only lines {start} to {last} are returned, {MOST_LINES} at a time; read on"
    return RangeResult(success=True, content=content, file=wanted.target_file, message=message)


async def list_dir(call: Call, wanted: ListDirArguments) -> ListDirResult:
    with failing("failed to list directory", "error listing directory"):
        page = Page(MOST_ENTRIES)
        found = await read_directory(call, wanted.relative_workspace_path, page)
    return ListDirResult(success=True, directory=found)


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "codegenReadFileRange",
        "Read a range of lines of a file, at most 250 at a time. Read on with the next range where "
        "that is not enough.",
        RangeArguments,
        RangeResult,
        read_range,
        Hints(title="Read lines of a file", read_only=True),
    ),
    Tool(
        "codegenListDir",
        "List the contents of a directory: a quick look around before more targeted tools.",
        ListDirArguments,
        ListDirResult,
        list_dir,
        Hints(title="List a directory", read_only=True),
    ),
)
