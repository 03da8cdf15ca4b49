"""What of a request's head goes on to an app, and what of the answer's head goes back.

Names, values, order and spelling stay as they came, in bytes. What changes is what belongs to one
connection (RFC 9110 section 7.6.1), what is told of the way (`Host`, `X-Forwarded-*`), and what is
the daemon's own business: its token and its cookies (`access.py`).
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.http import HttpVersion11, RawResponseMessage

from sandbox_api.api.access import Access, RawHeaders
from sandbox_api.errors import InvalidError

_CONNECTION_NAMES: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# what `Connection: …` cannot take away: it says where the body ends, or is set by us
_KEPT_NAMES: Final = frozenset({b"content-length", b"host"})
_FORWARDED_NAMES: Final = frozenset(
    {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix"}
)
_UPGRADES: Final = frozenset({"websocket"})  # that after which aiohttp parses no more HTTP
_AUTHORITY: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_INFORMATIONAL: Final = range(100, 200)


class Route(NamedTuple):
    """Where a request goes.

    Attributes:
        port: of the app.
        whole: whether the app gets the whole path, as one that has to know its own does.
    """

    port: int
    whole: bool


def app_target(request: web.Request, route: Route, access: Access) -> bytes:
    """Path and query for the app, byte by byte as they came, without a token of ours.

    `/port/3000/a%2Fb//c?q` is `/a%2Fb//c?q`; `/port/3000` is `/`.
    """
    path, mark, query = _AUTHORITY.sub("", request.raw_path, count=1).partition("?")
    rest = path.lstrip("/")
    if not route.whole:
        rest = "".join(rest.split("/", 2)[2:])
    kept = access.without_token(query)
    target = f"/{rest}{mark}{kept}" if kept or not query else f"/{rest}"
    return target.encode("utf-8", "surrogateescape")


def wanted_upgrade(request: web.Request) -> bool:
    """Whether the client wants to go on in another protocol on this connection."""
    tokens = request.headers.get("Connection", "").lower().split(",")
    wanted = request.headers.get("Upgrade", "").lower() in _UPGRADES
    return wanted and any(token.strip() == "upgrade" for token in tokens)


def is_repeatable(request: web.Request) -> bool:
    """Whether a request can be made twice, for it only asks (RFC 9110 section 9.2.1)."""
    safe = request.method in _SAFE_METHODS and not request.can_read_body
    return safe and not wanted_upgrade(request)


def sends_chunks(request: web.Request) -> bool:
    """Whether the request's body comes in chunks.

    Raises:
        InvalidError: another transfer coding, which nobody uses.
    """
    coding = request.headers.get("Transfer-Encoding", "").strip().lower()
    if coding not in {"", "chunked"}:
        raise InvalidError(f"Transfer-Encoding '{coding:.40}' is not supported; send chunked")
    return bool(coding)


def request_head(request: web.Request, route: Route, access: Access) -> bytes:
    """The whole head of the request that an app gets."""
    headers = [(b"Host", f"localhost:{route.port}".encode())]
    kept = access.without_credentials(_end_to_end(request.raw_headers))
    headers += [pair for pair in kept if pair[0].lower() not in _FORWARDED_NAMES | {b"host"}]
    headers += _forwarded(request, route)
    if sends_chunks(request):
        headers.append((b"Transfer-Encoding", b"chunked"))
    if wanted_upgrade(request):
        upgrade = request.headers["Upgrade"].encode("utf-8", "surrogateescape")
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    elif not is_repeatable(request):
        headers.append((b"Connection", b"close"))
    return _head(
        b"%s %s HTTP/1.1" % (request.method.encode(), app_target(request, route, access)), headers
    )


def _forwarded(request: web.Request, route: Route) -> Iterable[tuple[bytes, bytes]]:
    """How the client sees this way; what a proxy in front of us says of it goes first."""
    told = request.headers
    passed = [*told.getall("X-Forwarded-For", ()), _client_address(request)]
    prefix = told.get("X-Forwarded-Prefix", "").rstrip("/")
    if not route.whole:
        prefix += f"/port/{route.port}"
    values = {
        "X-Forwarded-For": ", ".join(filter(None, passed)),
        "X-Forwarded-Proto": told.get("X-Forwarded-Proto") or "http",
        "X-Forwarded-Host": told.get("X-Forwarded-Host") or told.get("Host") or "",
        "X-Forwarded-Prefix": prefix,
    }
    for name, value in values.items():
        if value:
            yield name.encode(), value.encode("utf-8", "surrogateescape")


def _client_address(request: web.Request) -> str:
    """The peer; IPv4 within IPv6, as a socket of both families has it, is told as IPv4."""
    if not request.remote:
        return ""
    address = ip_address(request.remote)
    return str(getattr(address, "ipv4_mapped", None) or address)


class AnswerHead:
    """The head of an app's answer as the client gets it.

    Args:
        request: what was asked.
        message: what the app said.

    Attributes:
        size: bytes of the body, where the app has told them; else 0.
        chunked: whether the body goes out in chunks.
        keep_alive: whether the client's connection can be used again.
    """

    def __init__(self, request: web.Request, message: RawResponseMessage) -> None:
        self._message = message
        self._headers = list(_end_to_end(message.raw_headers))
        bodiless = request.method == "HEAD" or message.code in _BODILESS
        if message.chunked and not bodiless:
            self._headers = [h for h in self._headers if h[0].lower() != b"content-length"]
        lengths = [value for name, value in self._headers if name.lower() == b"content-length"]
        self.size = int(lengths[0]) if lengths and not bodiless else 0
        sized = bodiless or bool(lengths)
        self.chunked = not sized and request.version >= HttpVersion11
        self.keep_alive = request.keep_alive and (sized or self.chunked)
        self._persists = request.version >= HttpVersion11

    def final(self) -> bytes:
        """The answer itself."""
        headers = list(self._headers)
        if self.chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        if self.keep_alive != self._persists:
            headers.append((b"Connection", b"keep-alive" if self.keep_alive else b"close"))
        return self._with_status(headers)

    def interim(self) -> bytes:
        """An answer after which another comes, such as 103 Early Hints."""
        return self._with_status(self._headers)

    def switching(self) -> bytes:
        """101: from here on the bytes are another protocol's."""
        upgrade = [pair for pair in self._message.raw_headers if pair[0].lower() == b"upgrade"]
        return self._with_status([*self._headers, (b"Connection", b"Upgrade"), *upgrade])

    def _with_status(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        reason = self._message.reason.encode("utf-8", "surrogateescape")
        return _head(b"HTTP/1.1 %d %s" % (self._message.code, reason), headers)


def is_interim(message: RawResponseMessage) -> bool:
    """Whether another answer follows this one."""
    return message.code in _INFORMATIONAL and message.code != HTTPStatus.SWITCHING_PROTOCOLS


def _end_to_end(headers: RawHeaders) -> Sequence[tuple[bytes, bytes]]:
    """Headers without those that are between two neighbours only."""
    listed = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    dropped = _CONNECTION_NAMES | (listed - _KEPT_NAMES)
    return [pair for pair in headers if pair[0].lower() not in dropped]


def _head(first_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [first_line, *(b"%s: %s" % pair for pair in headers), b"", b""]
    return b"\r\n".join(lines)
