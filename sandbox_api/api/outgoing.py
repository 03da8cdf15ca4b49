"""The client for other servers. It is loaded when it is first used, since most daemons never do.

Loading it reads all CA certificates, into TLS contexts that last: so that happens on a thread, and
never before the daemon knows where they are.
"""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Final

from sandbox_api import __version__

if TYPE_CHECKING:
    from aiohttp.client import ClientSession

_HEADERS: Final = {"User-Agent": f"sandbox-api/{__version__}"}


async def open_session(
    *, connect_timeout_s: float | None = None, max_connections: int, use_proxy: bool = False
) -> "ClientSession":
    """A client without cookies and without a limit on the time of a request; to be closed.

    Args:
        connect_timeout_s: how long a server has to accept a connection, in seconds; None for ever.
        max_connections: at a time; more requests wait.
        use_proxy: whether to go through the proxy that the environment names.
    """
    await asyncio.to_thread(import_module, "aiohttp.client")
    from aiohttp.client import ClientSession, ClientTimeout  # noqa: PLC0415 - see above
    from aiohttp.connector import TCPConnector  # noqa: PLC0415
    from aiohttp.cookiejar import DummyCookieJar  # noqa: PLC0415

    return ClientSession(
        connector=TCPConnector(limit=max_connections),
        cookie_jar=DummyCookieJar(),
        headers=_HEADERS,
        timeout=ClientTimeout(total=None, sock_connect=connect_timeout_s),
        trust_env=use_proxy,
    )
