"""Telling a callback of an open port: `POST {"pid": …, "port": …}` (spec/system.md 6).

A redirect is followed on the same server only: a callback names who is told, and nobody else is.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp.client_exceptions import ClientError
from yarl import URL

from sandbox_api.api.outgoing import open_session
from sandbox_api.errors import InvalidError

if TYPE_CHECKING:
    from aiohttp.client import ClientSession

log = logging.getLogger(__name__)

ATTEMPT_TIMEOUT_S: Final = 10.0
MAX_CONNECTIONS: Final = 16
MAX_REDIRECTS: Final = 3
MAX_URL_CHARACTERS: Final = 4096
_HEADERS: Final = {"Content-Type": "application/json"}
_SAME_METHOD: Final = frozenset({HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT})


def check_callback(callback: str) -> None:
    """Refuse what cannot be called.

    Raises:
        InvalidError: it is no URL of http or https with a host.
    """
    try:
        url = URL(callback)
        known = url.scheme in {"http", "https"} and bool(url.host) and bool(url.port)
    except ValueError:
        known = False
    if not known or len(callback) > MAX_URL_CHARACTERS:
        raise InvalidError(f"invalid callback '{callback:.80}': an http or https URL is expected")


class Callbacks:
    """The client that calls; it opens no connection before the first call."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """While the context lasts, calls can be made."""
        try:
            yield
        finally:
            if self._session is not None:
                await self._session.close()

    async def deliver(self, callback: str, pid: int, port: int) -> bool:
        """Make one attempt.

        Args:
            callback: a URL that `check_callback` lets pass.
            pid: of the process, as the client named it.
            port: that it has opened.

        Returns:
            Whether it is settled: taken, or refused for good. False where another attempt may work.
        """
        url = URL(callback)
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                status = await self._post(url, b'{"pid":%d,"port":%d}' % (pid, port))
        except (ClientError, OSError, TimeoutError, ValueError) as exc:
            reason = type(exc).__name__  # its text may hold the URL, and that a secret
            log.info("callback failed", extra={"host": url.host, "port": port, "reason": reason})
            return False
        if status >= HTTPStatus.BAD_REQUEST:
            log.info("callback refused", extra={"host": url.host, "port": port, "status": status})
        return status < HTTPStatus.INTERNAL_SERVER_ERROR

    async def _post(self, url: URL, body: bytes) -> int:
        """The status of the last answer."""
        client = await self._client()
        for _ in range(1 + MAX_REDIRECTS):
            async with client.post(
                url, data=body, headers=_HEADERS, allow_redirects=False
            ) as answer:
                status, location = answer.status, answer.headers.get("Location")
            if status not in _SAME_METHOD or location is None:
                break
            target = url.join(URL(location))
            if target.origin() != url.origin():
                log.warning("callback redirects to another server", extra={"host": url.host})
                break
            url = target
        return status

    async def _client(self) -> "ClientSession":
        async with self._opening:
            if self._session is None:
                self._session = await open_session(max_connections=MAX_CONNECTIONS)
        return self._session
