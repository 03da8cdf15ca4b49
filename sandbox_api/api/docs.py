"""The contract and the page that shows it, from the package: sandboxes are often offline."""

import asyncio
import hashlib
from importlib import resources
from typing import Final

from aiohttp import web

CONTENT_TYPES: Final = {
    "openapi.yml": "application/yaml",
    "index.html": "text/html; charset=utf-8",
    "initializer.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
CONTRACT: Final = "openapi.yml"
PAGE: Final = "/swagger/index.html"

# Kept for an hour, by the browser only: with a token set, a shared cache must not have it.
CACHE_CONTROL: Final = "private, max-age=3600"

# The page may load what this daemon serves, and nothing from anywhere else.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


def read_asset(path: str) -> bytes:
    """One file below sandbox_api/web."""
    return resources.files("sandbox_api").joinpath("web", path).read_bytes()


async def get_contract(request: web.Request) -> web.Response:
    """openapi.yml as it is in the package."""
    return await _asset_reply(request, CONTRACT, CONTRACT)


async def redirect_to_page(_: web.Request) -> web.Response:
    """`/swagger` is where people look first (spec/system.md 2)."""
    return web.Response(status=301, text="301: Moved Permanently", headers={"Location": PAGE})


async def get_page(request: web.Request) -> web.Response:
    """The page, or one of the files that it loads."""
    name = request.match_info["asset"]
    if name not in CONTENT_TYPES or name == CONTRACT:
        raise web.HTTPNotFound
    return await _asset_reply(request, name, f"swagger/{name}")


async def _asset_reply(request: web.Request, name: str, path: str) -> web.Response:
    body = await asyncio.to_thread(read_asset, path)
    etag = hashlib.sha256(body).hexdigest()[:16]
    headers = {"Cache-Control": CACHE_CONTROL, "ETag": f'"{etag}"'}
    if any(known.value in {etag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = CONTENT_TYPES[name]
    headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return web.Response(body=body, headers=headers)


ROUTES = (
    web.get("/openapi.yml", get_contract),
    web.get("/swagger", redirect_to_page),
    web.get("/swagger/{asset}", get_page),
)
