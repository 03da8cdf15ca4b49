"""Tools for files and directories."""

import posixpath
import stat
from typing import Annotated, Final

from pydantic import Field

from sandbox_api.api.listing import page_after
from sandbox_api.api.mcp.schemas import Arguments, Integer, NoArguments, Result
from sandbox_api.api.mcp.tools import AnyTool, Call, Hints, Tool, failing
from sandbox_api.api.schemas.files import DirectoryReply, FileContentReply
from sandbox_api.api.wire import EDITS, FILE_THREADS, FILES
from sandbox_api.core.directories import Directory, Page
from sandbox_api.core.paths import Location, parse_mode, printable
from sandbox_api.core.regular import entry_status
from sandbox_api.errors import FailedError, InvalidError, SandboxError, TooLargeError

MAX_READ_BYTES: Final = 4 << 20
MOST_ENTRIES: Final = 1000

PATH: Final = "Path, absolute or relative to the working directory"


class PathArguments(Arguments):
    path: str = Field(description=PATH)


class ListArguments(Arguments):
    path: str = Field(description=f"{PATH}; empty for the working directory itself")
    limit: Integer | None = Field(None, description="The most entries, 1000 by default and at most")
    cursor: str | None = Field(None, description="The nextCursor of the result before this one")


class ReadArguments(Arguments):
    path: str = Field(description=PATH)
    encoding: str | None = Field(None, description="utf-8, or base64 for what is no text")


class WriteArguments(Arguments):
    path: str = Field(description=PATH)
    content: str | None = Field(None, description="All of the new content; empty if absent")
    permissions: str | None = Field(None, description="Octal permission bits, such as 0644")
    is_directory: bool | None = Field(None, description="Make a directory instead of a file")


class EditArguments(Arguments):
    path: str = Field(description=PATH)
    old_string: str = Field(description="The exact text to replace, with enough lines around it")
    new_string: str = Field(description="The text that takes its place")
    replace_all: bool | None = Field(None, description="Replace it wherever it stands")


class DeleteArguments(Arguments):
    path: str = Field(description=PATH)
    is_directory: bool | None = Field(
        None, description="Whether it must be a directory, or must not; either if absent"
    )
    recursive: bool | None = Field(None, description="Delete what is in the directory too")
    force: bool | None = Field(
        None, description="Delete it even if it is a directory that the sandbox needs"
    )


class WorkingDirectoryResult(Result):
    path: str


class DirectoryResult(Result):
    directory: DirectoryReply


class ReadResult(Result, FileContentReply):
    encoding: Annotated[str, Field(exclude_if=lambda encoding: encoding == "utf-8")]


class MessageResult(Result):
    path: str
    message: str


class EditResult(Result):
    path: str
    occurrences_replaced: int


async def get_working_directory(call: Call, _: NoArguments) -> WorkingDirectoryResult:
    return WorkingDirectoryResult(path=printable(call.app[FILES].paths.workdir))


async def list_directory(call: Call, wanted: ListArguments) -> DirectoryResult:
    limit = MOST_ENTRIES if wanted.limit is None else wanted.limit
    with failing("failed to list directory", "error listing directory"):
        if limit < 1:
            raise InvalidError(f"invalid limit {limit}: it is at least 1")
        page = page_after(min(limit, MOST_ENTRIES), wanted.cursor or "")
        return DirectoryResult(directory=await read_directory(call, wanted.path, page))


async def read_directory(call: Call, path: str, page: Page) -> DirectoryReply:
    """A directory's listing under the path that the client used, `` for the working directory."""
    location = call.app[FILES].resolve(path)
    shown = location.shown if path else ""
    found: Directory = await call.app[FILES].list(Location(shown, location.absolute), page)
    name = posixpath.basename(path) or location.name if path else "."
    reply = DirectoryReply.model_validate(found)
    return reply.model_copy(update={"name": printable(name)})


async def read_file(call: Call, wanted: ReadArguments) -> ReadResult:
    encoding = wanted.encoding or "utf-8"
    with failing("failed to read file", "error reading file"):
        if encoding not in {"utf-8", "base64"}:
            raise InvalidError(f"invalid encoding '{encoding:.40}': utf-8 or base64 is expected")
        location = call.app[FILES].resolve(wanted.path)
        try:
            found = await call.app[FILES].read(location, encoding)
        except TooLargeError:
            raise _too_large(location) from None
        if isinstance(found, Directory):
            raise FailedError("path points to a directory, not a file")
        if len(found.content) > MAX_READ_BYTES:
            raise _too_large(location)
        return ReadResult.model_validate(found)


def _too_large(location: Location) -> TooLargeError:
    return TooLargeError(
        f"{printable(location.absolute)} is too large to be read at once (over {MAX_READ_BYTES} "
        "characters); read some of its lines with codegenReadFileRange, or search it with "
        "codegenGrepSearch"
    )


async def write_file(call: Call, wanted: WriteArguments) -> MessageResult:
    files = call.app[FILES]
    location = files.resolve(wanted.path)
    with failing("failed to write file"):
        mode = parse_mode(wanted.permissions)
    if wanted.is_directory:
        with failing("failed to create directory", "error creating directory"):
            await files.make_directory(location, mode)
        message = "Directory created successfully"
    else:
        with failing("failed to write file", "error writing file"):
            await files.write(location, (wanted.content or "").encode(), mode)
        message = "File created/updated successfully"
    return MessageResult(path=printable(location.shown), message=message)


async def edit_file(call: Call, wanted: EditArguments) -> EditResult:
    location = call.app[FILES].resolve(wanted.path)
    count = await call.app[EDITS].replace(
        location, wanted.old_string, wanted.new_string, everywhere=bool(wanted.replace_all)
    )
    return EditResult(path=printable(location.shown), occurrences_replaced=count)


async def delete(call: Call, wanted: DeleteArguments) -> MessageResult:
    files = call.app[FILES]
    location = files.resolve(wanted.path)
    kind = "directory" if wanted.is_directory else "file"
    with failing(f"failed to delete {kind}"):
        directory = await call.app[FILE_THREADS].run(_is_directory, location)
    if wanted.is_directory is not None and directory is not wanted.is_directory:
        found, expected = ("directory", "file") if directory else ("file", "directory")
        raise FailedError(f"failed to delete {kind}: path points to a {found}, not a {expected}")
    kind = "directory" if directory else "file"
    try:
        with failing(f"failed to delete {kind}", f"error deleting {kind}"):
            await files.delete(location, recursive=bool(wanted.recursive), force=bool(wanted.force))
    except SandboxError as exc:
        text = exc.message.replace("add ?force=true", "set force=true")
        raise type(exc)(text, exc.fields) from exc
    shown = kind.capitalize()
    return MessageResult(path=printable(location.shown), message=f"{shown} deleted successfully")


def _is_directory(location: Location) -> bool:
    return stat.S_ISDIR(entry_status(location).st_mode)


TOOLS: Final[tuple[AnyTool, ...]] = (
    Tool(
        "fsGetWorkingDirectory",
        "Get the current working directory, where relative paths begin.",
        NoArguments,
        WorkingDirectoryResult,
        get_working_directory,
        Hints(title="Get the working directory", read_only=True),
    ),
    Tool(
        "fsListDirectory",
        "List the contents of a directory, hidden names too, one level. Of more than 1000 entries "
        "the result has a nextCursor.",
        ListArguments,
        DirectoryResult,
        list_directory,
        Hints(title="List a directory", read_only=True),
    ),
    Tool(
        "fsReadFile",
        "Read the contents of a file, 4 MiB at most. For a part of a large one use "
        "codegenReadFileRange.",
        ReadArguments,
        ReadResult,
        read_file,
        Hints(title="Read a file", read_only=True),
    ),
    Tool(
        "fsWriteFile",
        "Create a file or replace all of its content; missing directories are made. To change a "
        "part of an existing file prefer fsEditFile.",
        WriteArguments,
        MessageResult,
        write_file,
        Hints(title="Write a file", destructive=True, idempotent=True),
    ),
    Tool(
        "fsEditFile",
        "Replace an exact text in an existing file. Prefer this to fsWriteFile for files that "
        "exist. oldString must stand in the file exactly once, unless replaceAll is true: give "
        "enough surrounding context to make it unique.",
        EditArguments,
        EditResult,
        edit_file,
        Hints(title="Edit a file", destructive=True),
    ),
    Tool(
        "fsDeleteFileOrDirectory",
        "Delete a file, a link or a directory; what is in a directory only with recursive.",
        DeleteArguments,
        MessageResult,
        delete,
        Hints(title="Delete a file or directory", destructive=True, idempotent=True),
    ),
)
