"""`POST /process`: start a command; answer at once, when it is ready, at its end, or as a stream.

`timeout` has three meanings that clients rely on (spec/process.md 4.2): it bounds the wait for the
end or for ports (the process goes on), and with keepAlive it is the age at which a run is killed.
"""

import asyncio

from aiohttp import web

from sandbox_api.api.audit import audit
from sandbox_api.api.processes.replies import process_reply
from sandbox_api.api.processes.streams import (
    keep_alive_until,
    open_events,
    send_error_event,
    send_events,
    send_offset_events,
    send_start_event,
)
from sandbox_api.api.query import flag
from sandbox_api.api.schemas.processes import ProcessRequest
from sandbox_api.api.wire import PROCESSES, SETTINGS, json_reply, read_json
from sandbox_api.core.processes import Process, ProcessSpec
from sandbox_api.core.processes.readiness import explain_missing, wait_for_ports
from sandbox_api.core.processes.tail import read_tail
from sandbox_api.errors import DeadlineError, FailedError, InvalidError

KEEP_ALIVE_S = 600


async def start_process(request: web.Request) -> web.StreamResponse:
    """Start a command; answer as the request asks."""
    wanted = await read_json(request, ProcessRequest)
    if wanted.keep_alive and request.app[SETTINGS].keep_alive_disabled:
        raise InvalidError(
            "keepAlive is not available for this sandbox: it is not included in your current plan"
        )
    timeout_s = _timeout_s(wanted)
    deadline = asyncio.get_running_loop().time() + timeout_s if timeout_s else None
    if "text/event-stream" in request.headers.get("Accept", ""):
        return await _answer_as_stream(request, wanted, timeout_s, deadline)
    process = await _start(request, wanted, "process_exec")
    if wanted.wait_for_ports:
        await _await_ports(process, wanted, timeout_s, deadline)
    if wanted.wait_for_completion:
        await _await_end(request, process, timeout_s, deadline)
    elif not wanted.wait_for_ports:
        return json_reply(process_reply(process, None))
    output = await read_tail(process.output, request.app[SETTINGS].max_log_reply_bytes)
    return json_reply(process_reply(process, output))


async def _answer_as_stream(
    request: web.Request, wanted: ProcessRequest, timeout_s: int, deadline: float | None
) -> web.StreamResponse:
    """NDJSON: what goes wrong after validation is an event (spec/process.md 7.3)."""
    try:
        process = await _start(request, wanted, "process_exec_stream")
    except FailedError as exc:
        return await send_error_event(await open_events(request), exc.message)
    response = await open_events(request)
    with_offsets = flag(request, "offsets")
    if with_offsets:
        await send_start_event(response, process)
    if wanted.wait_for_ports:
        ready = _await_ports(process, wanted, timeout_s, deadline)
        try:
            await keep_alive_until(response, ready)
        except (DeadlineError, FailedError) as exc:
            return await send_error_event(response, exc.message)
    send = send_offset_events if with_offsets else send_events
    return await send(request, response, process)


async def _start(request: web.Request, wanted: ProcessRequest, action: str) -> Process:
    process = await request.app[PROCESSES].start(_spec(wanted))
    audit(request, action, command=wanted.command, working_dir=wanted.working_dir)
    return process


async def _await_ports(
    process: Process, wanted: ProcessRequest, timeout_s: int, deadline: float | None
) -> None:
    if missing := await wait_for_ports(process, wanted.wait_for_ports, deadline):
        raise DeadlineError(
            f"process timed out waiting for ports after {timeout_s} seconds: "
            f"{await explain_missing(process, missing)}",
            process.who,
        )


async def _await_end(
    request: web.Request, process: Process, timeout_s: int, deadline: float | None
) -> None:
    loop = asyncio.get_running_loop()
    left_s = deadline and max(deadline - loop.time(), 0.0)
    ended = await request.app[PROCESSES].wait(process, left_s)
    # with keepAlive its end comes at this deadline too, and the answer must not depend on chance
    if not ended or (process.timed_out and deadline and loop.time() >= deadline):
        raise DeadlineError(f"process timed out after {timeout_s} seconds", process.who)


def _timeout_s(wanted: ProcessRequest) -> int:
    """Seconds, 0 for none."""
    if wanted.timeout is not None and wanted.timeout >= 0:
        return wanted.timeout
    return KEEP_ALIVE_S if wanted.keep_alive else 0


def _spec(wanted: ProcessRequest) -> ProcessSpec:
    return ProcessSpec(
        command=wanted.command,
        name=wanted.name,
        working_dir=wanted.working_dir,
        env=wanted.env,
        stdin=wanted.stdin,
        restart_on_failure=wanted.restart_on_failure,
        max_restarts=wanted.max_restarts,
        keep_alive=wanted.keep_alive,
        keep_alive_s=_timeout_s(wanted),
        max_runtime_s=wanted.max_runtime,
    )
