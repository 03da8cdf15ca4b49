"""Listings as replies: a short one at once, a long one in pieces, so that others get their turn."""

import asyncio
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from sandbox_api.api import query
from sandbox_api.api.schemas.files import DirectoryReply, FileReply, SubdirectoryReply
from sandbox_api.api.schemas.trees import TreeFileReply, TreeReply
from sandbox_api.api.wire import JSON_TYPE, json_reply
from sandbox_api.core.directories import Directory, Page, Subdirectory
from sandbox_api.core.trees import Tree
from sandbox_api.errors import InvalidError

E = TypeVar("E")

PIECE_ENTRIES = 256  # about a millisecond
PIECE_CHARACTERS = 256 * 1024

_FILES = TypeAdapter(list[FileReply])
_TREE_FILES = TypeAdapter(list[TreeFileReply])
_SUBDIRECTORIES = TypeAdapter(list[SubdirectoryReply])
_LISTS = b'"files":[],"subdirectories":[]'


def wanted_page(request: web.Request) -> Page | None:
    """The page that `limit` and `cursor` ask for; None for the whole listing.

    Raises:
        InvalidError: no number of at least 1, or no cursor of ours.
    """
    if "limit" not in request.query and "cursor" not in request.query:
        return None
    limit = query.number(request, "limit", default=1000, minimum=1)
    cursor = request.query.get("cursor", "")
    try:
        return Page(limit, b64decode(cursor, altchars=b"-_", validate=True))
    except ValueError:
        raise InvalidError(
            f"invalid cursor '{cursor:.100}': send the nextCursor of the page before"
        ) from None


async def send_directory(request: web.Request, directory: Directory) -> web.StreamResponse:
    """Reply with one level of a directory."""
    if len(directory.files) + len(directory.subdirectories) <= PIECE_ENTRIES:
        return json_reply(DirectoryReply.model_validate(directory))
    frame = DirectoryReply.model_validate(replace(directory, files=[], subdirectories=[]))
    files = (dump_entries(_FILES, some) for some in batched(directory.files))
    return await _send(request, frame, files, directory.subdirectories)


async def send_tree(request: web.Request, tree: Tree) -> web.StreamResponse:
    """Reply with all that is below a directory."""
    frame = TreeReply.model_validate(replace(tree, files=[], subdirectories=[]))
    files = (dump_entries(_TREE_FILES, some) for some in batched(tree.files))
    return await _send(request, frame, files, tree.subdirectories)


async def _send(
    request: web.Request,
    frame: BaseModel,
    files: Iterator[bytes],
    subdirectories: list[Subdirectory],
) -> web.StreamResponse:
    """Reply with a model's JSON into which the entries are put, piece by piece."""
    begin, _, end = frame.model_dump_json().encode().partition(_LISTS)
    response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
    await response.prepare(request)
    await response.write(begin + b'"files":[')
    await write_list(response, files)
    await response.write(b'],"subdirectories":[')
    await write_list(
        response, (dump_entries(_SUBDIRECTORIES, some) for some in batched(subdirectories))
    )
    await response.write(b"]" + end)
    await response.write_eof()
    return response


async def write_list(response: web.StreamResponse, pieces: Iterator[bytes]) -> None:
    """Write pieces of a JSON list; others get their turn between each two."""
    separator = b""
    for piece in pieces:
        await response.write(separator + piece)
        await asyncio.sleep(0)  # a write waits only for a slow reader
        separator = b","


def dump_entries(adapter: TypeAdapter[list[E]], entries: Sequence[object]) -> bytes:
    """Entries as the inside of a JSON list."""
    return adapter.dump_json(adapter.validate_python(entries))[1:-1]


def batched(entries: list[E]) -> Iterator[list[E]]:
    """Entries in portions that take about a millisecond, by their number and their content.

    Args:
        entries: emptied: to free all of a large directory at once would hold up the event loop.
    """
    while entries:
        count = characters = 0
        for entry in islice(entries, PIECE_ENTRIES):
            count += 1
            characters += _characters(entry)
            if characters >= PIECE_CHARACTERS:
                break
        yield entries[:count]
        del entries[:count]


def _characters(entry: object) -> int:
    """How many characters an entry has where it may have many."""
    return len(getattr(entry, "content", None) or getattr(entry, "context", None) or "")
