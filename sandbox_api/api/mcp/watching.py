"""Telling a client how a command goes while it waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from sandbox_api.api.mcp.tools import Call
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines

SILENCE_S: Final = 5.0
PAUSE_S: Final = 0.1  # between two messages: a client reads them, it is no log stream
MOST_AFTER_END: Final = 3
REST_S: Final = 1.0  # for what is left when the wait is over
MOST_BYTES: Final = 16 * 1024
MOST_LINE: Final = 200  # characters


@asynccontextmanager
async def tell_output(call: Call, process: Process, limit_s: int) -> AsyncIterator[None]:
    """While the context lasts, tell the client each new piece of output, and that time passes.

    Args:
        call: whose client is told, if it asked.
        process: whose output.
        limit_s: the most seconds that it is waited for: the total of the progress.
    """
    if call.notify is None:
        yield
        return
    task = asyncio.create_task(_tell_while_heard(call, process, limit_s))
    try:
        yield
        if not process.running:  # the last lines
            await asyncio.wait([task], timeout=REST_S)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _tell_while_heard(call: Call, process: Process, limit_s: int) -> None:
    with suppress(ConnectionError):  # the client has left; its handler learns it by itself
        await _tell(call, process, limit_s)


async def _tell(call: Call, process: Process, limit_s: int) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    line, after_end = "running", 0
    with Follower(process.output, frame_lines, Unfinished(), flush_lines) as follower:
        while (framed := await follower.next(SILENCE_S)) is not None:
            if framed:
                line = _last_line(framed)
                await call.tell_log("info", process.name, _text(framed))
            await call.tell_progress(round(loop.time() - began, 3), limit_s, line)
            if not process.running and (after_end := after_end + 1) == MOST_AFTER_END:
                return  # the result has the end of the output
            await _pause(process)


async def _pause(process: Process) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(PAUSE_S):
            await process.ended.wait()


def _last_line(framed: bytes) -> str:
    last = framed[-MOST_BYTES:].rstrip(b"\n").rpartition(b"\n")[2]
    return last.partition(b":")[2].decode("utf-8", "replace")[:MOST_LINE]


def _text(framed: bytes) -> str:
    """Prefixed lines; of many the last ones, and how much comes before them."""
    left_out = max(len(framed) - MOST_BYTES, 0)
    text = framed[left_out:].decode("utf-8", "replace")
    return f"[... {left_out} bytes are left out ...]\n{text}" if left_out else text
