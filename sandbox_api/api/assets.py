"""Files of the daemon's own pages, from the package: sandboxes are often offline."""

import asyncio
import hashlib
import posixpath
from importlib import resources
from typing import Final

from aiohttp import web

CONTENT_TYPES: Final = {
    ".yml": "application/yaml",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}

# Kept for an hour, by the browser only: with a token set, a shared cache must not have it.
CACHE_CONTROL: Final = "private, max-age=3600"

# A page may load what this daemon serves, and nothing from anywhere else.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


def read_asset(path: str) -> bytes:
    """One file below sandbox_api/web."""
    return resources.files("sandbox_api").joinpath("web", path).read_bytes()


async def asset_reply(request: web.Request, path: str) -> web.Response:
    """One file below sandbox_api/web, or 304 for a client that has it.

    Args:
        request: the request.
        path: of a file that is there, relative to that directory.
    """
    body = await asyncio.to_thread(read_asset, path)
    etag = hashlib.sha256(body).hexdigest()[:16]
    headers = {"Cache-Control": CACHE_CONTROL, "ETag": f'"{etag}"'}
    if any(known.value in {etag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = CONTENT_TYPES[posixpath.splitext(path)[1]]
    headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return web.Response(body=body, headers=headers)
