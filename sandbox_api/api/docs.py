"""The contract, and the page that shows it."""

from typing import Final

from aiohttp import web

from sandbox_api.api.assets import asset_reply

PAGE: Final = "/swagger/index.html"
ASSETS: Final = frozenset(
    {"index.html", "initializer.js", "swagger-ui-bundle.js", "swagger-ui.css"}
)


async def get_contract(request: web.Request) -> web.Response:
    """openapi.yml as it is in the package."""
    return await asset_reply(request, "openapi.yml")


async def redirect_to_page(_: web.Request) -> web.Response:
    """`/swagger` is where people look first (spec/system.md 2)."""
    return web.Response(status=301, text="301: Moved Permanently", headers={"Location": PAGE})


async def get_page(request: web.Request) -> web.Response:
    """The page, or one of the files that it loads."""
    name = request.match_info["asset"]
    if name not in ASSETS:
        raise web.HTTPNotFound
    return await asset_reply(request, f"swagger/{name}")


ROUTES = (
    web.get("/openapi.yml", get_contract),
    web.get("/swagger", redirect_to_page),
    web.get("/swagger/{asset}", get_page),
)
