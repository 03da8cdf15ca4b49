"""GET /archive/status, for clients that ask whether the sandbox is being archived: it is not."""

from aiohttp import web

from sandbox_api.api.schemas.archives import ArchiveStatusReply
from sandbox_api.api.wire import json_reply


async def get_archive_status(_: web.Request) -> web.Response:
    """The sandbox is active."""
    return json_reply(ArchiveStatusReply())


ROUTES = (web.get("/archive/status", get_archive_status, allow_head=True),)
