"""Commands over HTTP: `/process` and what is below it (spec/process.md)."""

import asyncio
import math
import sys

from aiohttp import web

from sandbox_api.api.audit import audit
from sandbox_api.api.processes.log_queries import (
    read_begin,
    read_max_bytes,
    wants_events,
    wants_part,
)
from sandbox_api.api.processes.replies import end_reply, logs_reply, process_reply
from sandbox_api.api.processes.start import start_process
from sandbox_api.api.processes.streams import send_lines, send_log_events
from sandbox_api.api.schemas.base import MessageReply
from sandbox_api.api.wire import PROCESSES, SETTINGS, body_chunks, json_bytes_reply, json_reply
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.begin import find_begin
from sandbox_api.core.processes.page import read_page
from sandbox_api.core.processes.stdin import Stdin
from sandbox_api.core.processes.tail import OutputText, read_tail
from sandbox_api.errors import ConflictError, InvalidError, NotFoundError

WAIT_DEFAULT_S = 60.0
WAIT_MOST_S = 119.0
LIST_OUTPUT_CHARACTERS = 16 << 20
"""How much output the list inlines, newest processes first; each has its own route for more."""


async def list_processes(request: web.Request) -> web.Response:
    """Every process that is remembered, in order of start."""
    max_bytes = request.app[SETTINGS].max_log_tail_bytes
    left = LIST_OUTPUT_CHARACTERS
    replies = []
    for process in reversed(request.app[PROCESSES].list()):
        output = await read_tail(process.output, max_bytes) if left > 0 else OutputText()
        left -= len(output.logs) * 2
        replies.append(process_reply(process, output, unfinished=None).model_dump_json())
        await asyncio.sleep(0)
    return json_bytes_reply(f"[{','.join(reversed(replies))}]".encode())


async def get_process(request: web.Request) -> web.Response:
    """One process, by pid or name."""
    return await _current(request, _find(request, "process not found"))


async def wait_process(request: web.Request) -> web.Response:
    """One process, held back until it ends or the time is up."""
    timeout_s = _wait_timeout_s(request.query.get("timeout", ""))
    process = _find(request, "process not found")
    await request.app[PROCESSES].wait(process, timeout_s)
    return await _current(request, process)


async def _current(request: web.Request, process: Process) -> web.Response:
    output = await read_tail(process.output, request.app[SETTINGS].max_log_tail_bytes)
    return json_reply(process_reply(process, output))


def _wait_timeout_s(text: str) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:  # what is not a number compares false as well
        raise InvalidError(f"invalid timeout: {text!r} must be a number of seconds, at least 0")
    return min(value or WAIT_DEFAULT_S, WAIT_MOST_S)


async def head_process(request: web.Request) -> web.Response:
    """Whether it exists."""
    _find(request, "process not found")
    return web.Response()


async def head_processes(_: web.Request) -> web.Response:
    """The route exists."""
    return web.Response()


async def get_logs(request: web.Request) -> web.Response:
    """The captured output."""
    process = _find(request, f"process with PID {_identifier(request)} not found")
    audit(request, "process_logs_access", identifier=_identifier(request))
    most = request.app[SETTINGS].max_log_reply_bytes
    if not wants_part(request):
        return json_reply(logs_reply(await read_tail(process.output, most)))
    begin = await find_begin(process.output, read_begin(request))
    page = await read_page(process.output, begin, read_max_bytes(request, most))
    return json_reply(logs_reply(page))


async def stream_logs(request: web.Request) -> web.StreamResponse:
    """The captured output and then what comes, to the end."""
    process = _find(request, f"process with Identifier {_identifier(request)} not found")
    audit(request, "process_logs_stream", identifier=_identifier(request))
    send = send_log_events if wants_events(request) else send_lines
    return await send(request, process, await find_begin(process.output, read_begin(request)))


async def stop_process(request: web.Request) -> web.Response:
    """SIGTERM, and SIGKILL after a grace."""
    audit(request, "process_stop", identifier=_identifier(request))
    process = await request.app[PROCESSES].stop(_identifier(request))
    return json_reply(end_reply(process, "Process stopped successfully"))


async def kill_process(request: web.Request) -> web.Response:
    """SIGKILL for the whole tree."""
    audit(request, "process_kill", identifier=_identifier(request))
    process, survivors = await request.app[PROCESSES].kill(_identifier(request))
    return json_reply(end_reply(process, "Process killed successfully", survivors))


async def write_stdin(request: web.Request) -> web.Response:
    """Hand the body to the process, as it comes and as fast as the process reads."""
    stdin = _open_stdin(request)
    max_bytes = request.app[SETTINGS].max_stdin_bytes or sys.maxsize
    way_around = "send it in several requests, or raise SANDBOX_MAX_STDIN_BYTES"
    await stdin.write(body_chunks(request, max_bytes, way_around))
    return json_reply(MessageReply(message="Data written to stdin successfully"))


async def close_stdin(request: web.Request) -> web.Response:
    """The process reads an end of file; closing twice is fine."""
    process = _find(request, f"process with Identifier {_identifier(request)} not found")
    if not process.spec.stdin:
        raise _no_stdin(process)
    if process.stdin is not None:
        process.stdin.close()
    return json_reply(MessageReply(message="Stdin closed successfully"))


def _open_stdin(request: web.Request) -> Stdin:
    process = _find(request, f"process with Identifier {_identifier(request)} not found")
    if process.stdin is None or not process.stdin.open:
        raise _no_stdin(process)
    return process.stdin


def _no_stdin(process: Process) -> ConflictError:
    reason = "it was closed"
    if not process.spec.stdin:
        reason = 'start it with "stdin": true'
    elif not process.running:
        reason = "it is not running"
    elif process.restarting:
        reason = "it waits for its restart, try again"
    return ConflictError(f"process {process.name} has no open stdin: {reason}", process.who)


def _identifier(request: web.Request) -> str:
    return request.match_info["identifier"]


def _find(request: web.Request, otherwise: str) -> Process:
    process = request.app[PROCESSES].find(_identifier(request))
    if process is None:
        raise NotFoundError(otherwise)
    return process


# a name may hold slashes; the known suffixes end it, so they stand first
ONE = r"/process/{identifier:[\s\S]*[^/]}"
ROUTES = (
    web.get("/process", list_processes, allow_head=False),
    web.head("/process", head_processes),
    web.post("/process", start_process),
    web.get(f"{ONE}/logs/stream", stream_logs, allow_head=False),
    web.head(f"{ONE}/logs/stream", head_process),
    web.get(f"{ONE}/logs", get_logs, allow_head=False),
    web.head(f"{ONE}/logs", head_process),
    web.get(f"{ONE}/wait", wait_process, allow_head=False),
    web.delete(f"{ONE}/kill", kill_process),
    web.post(f"{ONE}/stdin", write_stdin),
    web.delete(f"{ONE}/stdin", close_stdin),
    web.get(ONE, get_process, allow_head=False),
    web.head(ONE, head_process),
    web.delete(ONE, stop_process),
)
