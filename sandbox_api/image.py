"""What the one-file build does before it takes an image of the process that every daemon starts as.

Then all that is imported when it is first used is there, and libraries have filled their caches.
Nothing has happened that belongs to one process or machine (tests/test_imports.py): the client of
aiohttp is left out, for it makes TLS contexts with the certificates of the machine.
"""

import logging
import platform
from importlib import import_module
from typing import Final

from sandbox_api.app import create_app
from sandbox_api.settings import Settings

LATER: Final = (
    "encodings.ascii",
    "encodings.idna",
    "rapidfuzz.fuzz",
    "rapidfuzz.process",
    "sandbox_api.api.mcp.server",
)


def prepare() -> None:
    """Import what is imported later, and do once what each start does without any effect."""
    for name in LATER:
        import_module(name)
    create_app(Settings())
    logging.LogRecord("", logging.INFO, "", 0, "%d", (1,), None)
    vars(platform)["_uname_cache"] = None  # it holds the name of the build machine
