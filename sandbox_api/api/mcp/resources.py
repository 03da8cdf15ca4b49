"""Resources: files below the working directory, and the logs of processes.

`file:///path` and `process:///identifier/logs`, escaped as in any URI. A client that subscribed to
a log is told that it grew, twice a second at most, and reads it again.
"""

import asyncio
import base64
import os
import posixpath
import re
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from aiohttp import web

from sandbox_api.api.mcp.jsonrpc import (
    INVALID_PARAMS,
    RESOURCE_NOT_FOUND,
    Json,
    Request,
    RpcError,
    notification,
)
from sandbox_api.api.mcp.peers import Peer
from sandbox_api.api.mcp.sessions import MOST_SUBSCRIPTIONS, Session
from sandbox_api.api.wire import FILES, PROCESSES, SEARCHES
from sandbox_api.core.codegen.documents import SCOPE
from sandbox_api.core.directories import Directory
from sandbox_api.core.paths import Location
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.tail import read_tail
from sandbox_api.core.searches.until import Until
from sandbox_api.core.walk import Walk, is_directory
from sandbox_api.errors import SandboxError

PAGE: Final = 200
MOST_LISTED: Final = 100_000
MAX_BYTES: Final = 4 << 20
LOG_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.5
LOOK_AGAIN_S: Final = 60.0

_LOGS: Final = "/logs"
_CURSOR: Final = re.compile("[0-9]{1,7}", re.ASCII)
TEMPLATES: Final = (
    {
        "uriTemplate": "file:///{+path}",
        "name": "file",
        "description": "A file below the working directory, by its absolute path",
    },
    {
        "uriTemplate": "process:///{identifier}/logs",
        "name": "process logs",
        "description": "The end of the output of a process, by its name or PID; can be subscribed",
        "mimeType": "text/plain",
    },
)


class _File(NamedTuple):
    path: str
    size: int


class Resources:
    """What can be read and subscribed.

    Args:
        app: where the owners are found.
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app

    async def list_page(self, request: Request, _: Peer) -> Json:
        """Logs first, then files, in pages."""
        begin = _offset(request.params.get("cursor"))
        logs = [_told_log(process) for process in self._app[PROCESSES].list()]
        page = logs[begin : begin + PAGE]
        at, room = max(begin - len(logs), 0), PAGE - len(page)
        files = await self._files(at, room + 1)
        page += [_told_file(one) for one in files[:room]]
        result: Json = {"resources": page, "ttlMs": 0, "cacheScope": "private"}
        if len(files) > room and begin + PAGE < MOST_LISTED:
            result["nextCursor"] = str(begin + PAGE)
        return result

    async def list_templates(self, _: Request, __: Peer) -> Json:
        """The two forms of URIs."""
        return {"resourceTemplates": list(TEMPLATES), "ttlMs": 0, "cacheScope": "public"}

    async def read(self, request: Request, _: Peer) -> Json:
        """One resource's content."""
        uri = _uri(request)
        if (process := self._process(uri)) is not None:
            output = await read_tail(process.output, LOG_BYTES)
            content: Json = {"uri": uri, "mimeType": "text/plain", "text": output.logs}
        else:
            content = await self._read_file(uri)
        return {"contents": [content], "ttlMs": 0, "cacheScope": "private"}

    async def subscribe(self, request: Request, peer: Peer) -> Json:
        """Tell the client each time that a log grows, until its process has ended."""
        uri, session = _uri(request), peer.session
        process = self._process(uri)
        if process is None:
            raise RpcError(INVALID_PARAMS, "only logs of processes can be subscribed", {"uri": uri})
        if session is None:
            raise RpcError(
                INVALID_PARAMS, "a subscription needs a session: send the Mcp-Session-Id"
            )
        if len(session.subscriptions) >= MOST_SUBSCRIPTIONS:
            raise RpcError(INVALID_PARAMS, f"over {MOST_SUBSCRIPTIONS} subscriptions")
        if uri not in session.subscriptions:
            task = asyncio.create_task(_follow(session, process, uri))
            session.subscriptions[uri] = task
        return {}

    async def unsubscribe(self, request: Request, peer: Peer) -> Json:
        """Tell it no more; not to be subscribed is no error."""
        if peer.session is not None:
            task = peer.session.subscriptions.pop(_uri(request), None)
            if task is not None:
                task.cancel()
        return {}

    def _process(self, uri: str) -> Process | None:
        """The process whose log a URI names; None where it is no such URI.

        Raises:
            RpcError: there is no such process.
        """
        if not uri.startswith("process:"):
            return None
        path = _path(uri, "process")
        if not path.endswith(_LOGS):
            raise _not_found(uri)
        process = self._app[PROCESSES].find(path[1 : -len(_LOGS)])
        if process is None:
            raise _not_found(uri)
        return process

    async def _read_file(self, uri: str) -> Json:
        files = self._app[FILES]
        try:
            location = files.resolve(_path(uri, "file"))
            if not self._is_below(location):
                raise _not_found(uri, "it is not below the working directory")
            found = await files.read(location, "base64")
        except SandboxError as exc:
            raise _not_found(uri, exc.message) from None
        if isinstance(found, Directory):
            raise _not_found(uri, "it is a directory")
        data = base64.b64decode(found.content)
        if len(data) > MAX_BYTES:
            raise _not_found(uri, f"it is over {MAX_BYTES} bytes; use codegenReadFileRange")
        return {"uri": uri, **_content(data)}

    def _is_below(self, location: Location) -> bool:
        workdir = self._app[FILES].paths.workdir.rstrip("/")
        return location.absolute.startswith(f"{workdir}/")

    async def _files(self, begin: int, count: int) -> list[_File]:
        workdir = self._app[FILES].paths.workdir

        def run(until: Until) -> list[_File]:
            walk = (one for one in Walk(workdir, SCOPE, until) if not is_directory(one))
            with suppress(OSError):  # no such directory
                return [_describe(one) for one in islice(walk, begin, begin + count)]
            return []

        return await self._app[SEARCHES].run(run)


def _describe(entry: os.DirEntry[str]) -> _File:
    size = 0
    with suppress(OSError):  # it vanished meanwhile
        size = entry.stat(follow_symlinks=False).st_size
    return _File(entry.path, size)


async def _follow(session: Session, process: Process, uri: str) -> None:
    """Tell each time that there is more, and last when the process has ended."""
    output, loop = process.output, asyncio.get_running_loop()
    told = output.position
    while output.end is None or output.position != told:
        if output.position == told:
            await output.changed(loop.time() + LOOK_AGAIN_S)
        if output.position != told or output.end is not None:
            told = output.position
            session.tell(notification("notifications/resources/updated", {"uri": uri}))
            await asyncio.sleep(PAUSE_S)
    session.subscriptions.pop(uri, None)


def _told_log(process: Process) -> Json:
    return {
        "uri": f"process:///{quote(process.name, safe='')}/logs",
        "name": f"logs of {process.name}",
        "description": f"Output of: {process.spec.command[:200]}",
        "mimeType": "text/plain",
    }


def _told_file(file: _File) -> Json:
    name = posixpath.basename(file.path)
    told = {"uri": _file_uri(file.path), "name": name.encode("utf-8", "replace").decode()}
    return {**told, "size": file.size}


def _file_uri(path: str) -> str:
    return "file://" + quote(path.encode("utf-8", "surrogateescape"))


def _content(data: bytes) -> Json:
    try:
        return {"mimeType": "text/plain", "text": data.decode()}
    except UnicodeDecodeError:
        blob = base64.b64encode(data).decode()
        return {"mimeType": "application/octet-stream", "blob": blob}


def _uri(request: Request) -> str:
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise RpcError(INVALID_PARAMS, "invalid params: uri must be a string")
    return uri


def _path(uri: str, scheme: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise _not_found(uri, "it is no URI") from None
    path = unquote(parts.path, errors="surrogateescape")
    if parts.scheme != scheme or parts.netloc not in {"", "localhost"} or path[:1] != "/":
        raise _not_found(uri, f"{scheme}:///… is expected")
    return path


def _not_found(uri: str, reason: str = "there is nothing") -> RpcError:
    return RpcError(RESOURCE_NOT_FOUND, f"Resource not found: {reason}", {"uri": uri})


def _offset(cursor: object) -> int:
    if cursor is None or cursor == "":
        return 0
    if isinstance(cursor, str) and _CURSOR.fullmatch(cursor):
        return int(cursor)
    raise RpcError(INVALID_PARAMS, "invalid params: send the nextCursor of the page before")
