"""What the one-file build does before it takes an image of the process that every daemon starts as.

Then all that is imported when it is first used is there, and the daemon has been up a few times:
the interpreter has adapted its code to what a start does, and libraries have filled their caches.
Nothing of it stays that belongs to one process or machine (tests/test_imports.py): the client of
aiohttp is left out, for it makes TLS contexts with the certificates of the machine.
"""

import asyncio
import gc
import logging
import platform
import socket
from functools import lru_cache
from importlib import import_module
from typing import Final

from aiohttp import helpers

from sandbox_api.api.server import Runner
from sandbox_api.app import create_app
from sandbox_api.settings import Settings

LATER: Final = (
    "encodings.ascii",
    "encodings.idna",
    "rapidfuzz.fuzz",
    "rapidfuzz.process",
    "sandbox_api.api.mcp.server",
)
REHEARSALS: Final = 12  # a function is adapted after eight calls (CPython's pycore_code.h)
REHEARSAL_S: Final = 60.0  # an emulated processor is slow


def prepare() -> None:
    """Import what is imported later, and start and stop the daemon without leaving a trace.

    Raises:
        RuntimeError: the daemon did not answer as it should.
    """
    for name in LATER:
        import_module(name)
    logging.disable()
    for _ in range(REHEARSALS):
        asyncio.run(_rehearse())
        _forget()
    logging.disable(logging.NOTSET)
    logging.LogRecord("", logging.INFO, "", 0, "%d", (1,), None)
    vars(platform)["_uname_cache"] = None  # it holds the name of the build machine


def _forget() -> None:
    """What libraries remember of the rehearsal: its application, its time."""
    cached_function = type(lru_cache(repr))
    for one in gc.get_objects():
        if type(one) is cached_function:
            one.cache_clear()
    vars(helpers).update(_cached_current_datetime=None, _cached_formatted_datetime="")
    gc.collect()


async def _rehearse() -> None:
    """One life of a daemon that has no directory: it leaves nothing on the build's disk."""
    runner = Runner(create_app(Settings(state_dir="/dev/null")), access_lines=lambda _: None)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            await runner.serve(listener, 1)
            async with asyncio.timeout(REHEARSAL_S):
                answer = await _ask(*listener.getsockname())
        finally:
            await runner.cleanup()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the daemon is not well: {answer!r}")


async def _ask(host: str, port: int) -> bytes:
    """The answer of /health, as it comes."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()
