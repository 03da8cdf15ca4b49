"""A run's output as it comes: prefixed lines, or NDJSON events with the result at the end.

Headers go at once; a keep-alive comes after 4 s of silence, since the official synchronous client
gives up after 5. A stream ends cleanly only when its process has ended: when the daemon stops, the
stream of a live process is cut (design.md 6, G07).
"""

import asyncio
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Final, TypeVar

from aiohttp import web

from sandbox_api.api.processes.events import (
    KEEP_ALIVE_EVENT,
    Told,
    event,
    flush_events,
    flush_offset_events,
    frame_events,
    frame_offset_events,
    offset_fields,
)
from sandbox_api.api.processes.replies import process_reply
from sandbox_api.api.wire import SETTINGS, SHUTDOWN
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.cursor import NOTHING
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines
from sandbox_api.core.processes.journal import Position
from sandbox_api.core.processes.tail import read_tail

KEEP_ALIVE_LINE: Final = b"[keepalive]\n"
SILENCE_S: Final = 4.0
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

S = TypeVar("S")


async def send_lines(request: web.Request, process: Process, begin: Position) -> web.StreamResponse:
    """All output so far and then live, as `stdout:` and `stderr:` lines, to the end.

    Args:
        request: the request.
        process: whose output.
        begin: bytes of each stream that the client does not want.
    """
    response = _stream("text/plain; charset=utf-8")
    follower = Follower(process.output, frame_lines, Unfinished(), flush_lines, begin)
    with _cut_at_shutdown(request, process):
        await response.prepare(request)
        await _follow(response, follower, KEEP_ALIVE_LINE)
        await response.write_eof()
    return response


async def send_log_events(
    request: web.Request, process: Process, begin: Position
) -> web.StreamResponse:
    """As `send_lines`, but as events with offsets; how the process ended is the last one."""
    with _cut_at_shutdown(request, process):
        response = await open_events(request)
        follower = _offset_follower(process, begin)
        await _follow(response, follower, KEEP_ALIVE_EVENT)
        await process.ended.wait()
        await response.write(_end_event(process, follower.reached))
        await response.write_eof()
    return response


async def open_events(request: web.Request) -> web.StreamResponse:
    """Begin an NDJSON stream; its status is 200 whatever comes (spec/process.md 7.3)."""
    response = _stream("application/x-ndjson")
    await response.prepare(request)
    return response


async def send_events(
    request: web.Request, response: web.StreamResponse, process: Process
) -> web.StreamResponse:
    """All output as events, and the process itself as the last one."""
    follower = Follower(process.output, frame_events, Unfinished(), flush_events)
    return await _send_with_result(request, response, process, follower)


async def send_offset_events(
    request: web.Request, response: web.StreamResponse, process: Process
) -> web.StreamResponse:
    """As `send_events`, with offsets."""
    follower = _offset_follower(process, NOTHING)
    return await _send_with_result(request, response, process, follower)


async def _send_with_result(
    request: web.Request, response: web.StreamResponse, process: Process, follower: Follower[S]
) -> web.StreamResponse:
    with _cut_at_shutdown(request, process):
        await _follow(response, follower, KEEP_ALIVE_EVENT)
        await process.ended.wait()
        output = await read_tail(process.output, request.app[SETTINGS].max_log_tail_bytes)
        reply = process_reply(process, output).model_dump_json()
        await response.write(event("result", {"data": reply}))
        await response.write_eof()
    return response


async def keep_alive_until(response: web.StreamResponse, done: Coroutine[None, None, None]) -> None:
    """Send keep-alives while something else is awaited; its error is raised."""
    task = asyncio.ensure_future(done)
    try:
        while not task.done():
            finished, _ = await asyncio.wait([task], timeout=SILENCE_S)
            if not finished:
                await response.write(KEEP_ALIVE_EVENT)
        await task
    finally:
        task.cancel()


async def send_start_event(response: web.StreamResponse, process: Process) -> None:
    """Say which process it is: who resumes has to name it."""
    await response.write(event("start", {"pid": str(process.pid), "name": process.name}))


async def send_error_event(response: web.StreamResponse, message: str) -> web.StreamResponse:
    """Say in the stream why there is no process, and end it."""
    await response.write(event("error", {"data": message}))
    await response.write_eof()
    return response


def _stream(content_type: str) -> web.StreamResponse:
    return web.StreamResponse(headers={"Content-Type": content_type, **_HEADERS})


def _cut_at_shutdown(request: web.Request, process: Process) -> nullcontext[None]:
    return request.app[SHUTDOWN].cut(request) if process.running else nullcontext()  # type: ignore[return-value]


def _offset_follower(process: Process, begin: Position) -> Follower[Told]:
    told = Told(position=begin)
    return Follower(process.output, frame_offset_events, told, flush_offset_events, begin)


def _end_event(process: Process, position: Position) -> bytes:
    keys = {"status", "exit_code", "signal", "exit_known"}
    how = process_reply(process, None).model_dump(include=keys)
    return event("end", {**how, **offset_fields(position)})


async def _follow(response: web.StreamResponse, follower: Follower[S], keep_alive: bytes) -> None:
    with follower:
        while (framed := await follower.next(SILENCE_S)) is not None:
            await response.write(framed or keep_alive)
            await asyncio.sleep(0)  # a fast reader of a long log leaves room for others
