"""Who may come in: the rules on Host, Origin and token.

Until a token is configured the daemon trusts its network, with two rules that real clients never
notice: a Host that a foreign web page could have chosen is refused (DNS rebinding), and so is a
foreign Origin (cross-site requests). `/health` is exempt from everything.
"""

import hmac
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from aiohttp import web

from sandbox_api.errors import ForbiddenError, UnauthorizedError

COOKIE = "sandbox_api_session"
TOKEN_PARAMETERS = ("token", "bl_preview_token")
OPEN_PATH = "/health"
PAGES = ("/swagger", "/terminal")

EDGE_SUFFIXES = (".bl.run", ".blaxel.ai", ".blaxel.dev")
HOST_SUFFIXES = (
    ".localhost",
    ".local",
    ".internal",
    ".svc",
    ".cluster.local",
    *EDGE_SUFFIXES,
)
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_PORT = re.compile(r"[0-9]{1,5}")
_CACHED_HEADERS = 512
_CACHED_CHARACTERS = 512


def parse_host(value: str) -> tuple[str, int | None] | None:
    """A Host header as (name in lower case without brackets and final dot, port).

    Args:
        value: `name`, `name:port`, `[v6]` or `[v6]:port` (RFC 9112 section 3.2).

    Returns:
        None where it is none of these.
    """
    if value.startswith("["):
        name, bracket, rest = value[1:].partition("]")
        if not bracket or not is_address(name) or ":" not in name:
            return None
    else:
        name, colon, port = value.partition(":")
        rest = colon + port
        name = name.lower().removesuffix(".")
        if not _NAME.fullmatch(name):
            return None
    if not rest:
        return name.lower(), None
    port = rest[1:]
    if rest[0] != ":" or not _PORT.fullmatch(port):
        return None
    return name.lower(), int(port)


def is_address(name: str) -> bool:
    """Whether a name is an IPv4 or IPv6 literal."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _port_of(scheme: str, port: int | None) -> int | None:
    return _DEFAULT_PORTS.get(scheme) if port is None else port


class Access:
    """The rules, with what settings add to them.

    Args:
        token: what a request must carry; empty for none.
        allowed_hosts: names that are served besides the built-in ones, `*.x` or `*`.
        allowed_origins: origins that are served besides the own one, or `*`.
    """

    def __init__(
        self, token: str, allowed_hosts: Iterable[str], allowed_origins: Iterable[str]
    ) -> None:
        self._token = token.encode("utf-8", "surrogateescape")
        self._session = hmac.new(self._token, b"sandbox-api page session", "sha256").hexdigest()
        self._hosts = frozenset(_host_name(host) for host in allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._judge_known = lru_cache(_CACHED_HEADERS)(self._judge)

    def check_place(self, request: web.Request) -> None:
        """Refuse a foreign Host or Origin.

        Raises:
            ForbiddenError: the text names the setting that would allow it.
        """
        if request.path == OPEN_PATH:
            return
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        known = len(host) + len(origin or "") <= _CACHED_CHARACTERS
        problem = (self._judge_known if known else self._judge)(host, origin)
        if problem:
            raise ForbiddenError(problem)

    def check_token(self, request: web.Request) -> None:
        """Refuse a request without the token, where one is configured.

        Raises:
            UnauthorizedError: no token, or a wrong one.
        """
        if not self._token or request.method == "OPTIONS" or request.path == OPEN_PATH:
            return
        offered = list(_offered_tokens(request))
        if any(self._matches(token) for token in offered) or self._has_session(request):
            return
        if offered:
            raise UnauthorizedError("the token is wrong; send the one the daemon was started with")
        raise UnauthorizedError("a token is needed; send it as 'Authorization: Bearer <token>'")

    def page_login(self, request: web.Request) -> web.Response | None:
        """Turn a token in a page's address into a cookie.

        A browser that opens one of our pages with `?token=` is sent to the same page without it, so
        that the token is in no history and no Referer. Call after `check_token`.

        Returns:
            The redirect, or None where this is not such a request.
        """
        if not self._token or request.method != "GET" or not _is_page(request):
            return None
        if not any(name in request.query for name in TOKEN_PARAMETERS):
            return None
        query = [(k, v) for k, v in request.query.items() if k not in TOKEN_PARAMETERS]
        location = request.rel_url.with_query(query)
        response = web.Response(status=303, headers={"Location": str(location)})
        response.set_cookie(COOKIE, self._session, httponly=True, samesite="Strict", path="/")
        return response

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)

    def _has_session(self, request: web.Request) -> bool:
        """Whether the cookie came; an app under /port shares our origin and may not use it."""
        if _is_below_port(request.headers.get("Referer", "")):
            return False
        pairs = (pair.strip() for pair in request.headers.get("Cookie", "").split(";"))
        wanted = f"{COOKIE}={self._session}".encode()
        return any(hmac.compare_digest(p.encode("utf-8", "surrogateescape"), wanted) for p in pairs)

    def _judge(self, host: str, origin: str | None) -> str:
        """Why this Host and Origin are refused, or nothing."""
        parsed = parse_host(host)
        if host and (parsed is None or not self._serves_host(parsed[0])):
            return (
                f"Host {host!r:.120} is not served; add its name to SANDBOX_ALLOWED_HOSTS "
                "if the sandbox is meant to be reached under it"
            )
        if origin is None or self._serves_origin(origin, parsed):
            return ""
        return (
            f"Origin {origin!r:.120} is not this sandbox; add it to SANDBOX_ALLOWED_ORIGINS "
            "if its pages may use the sandbox"
        )

    def _serves_host(self, name: str) -> bool:
        if "." not in name or name.endswith(HOST_SUFFIXES) or is_address(name):
            return True
        return "*" in self._hosts or name in self._hosts or self._matches_wildcard(name)

    def _matches_wildcard(self, name: str) -> bool:
        return any(host.startswith("*.") and name.endswith(host[1:]) for host in self._hosts)

    def _serves_origin(self, origin: str, host: tuple[str, int | None] | None) -> bool:
        if "*" in self._origins or origin.lower() in self._origins:
            return True
        if host is None:
            return False
        if host[0].endswith(EDGE_SUFFIXES):
            return True
        scheme, _, rest = origin.lower().partition("://")
        own = parse_host(rest)
        if own is None or own[0] != host[0]:
            return False
        # Host says no scheme: without a port it stands for the default port of the Origin's scheme
        return _port_of(scheme, own[1]) == _port_of(scheme, host[1])


def _host_name(entry: str) -> str:
    """An entry of SANDBOX_ALLOWED_HOSTS as it is compared: a port is forgiven, not needed."""
    parsed = parse_host(entry)
    return parsed[0] if parsed else entry.lower()


def _is_below_port(referer: str) -> bool:
    try:
        path = unquote(urlsplit(referer).path)
    except ValueError:
        return True
    return path.lstrip("/").startswith("port/")


def _is_page(request: web.Request) -> bool:
    path = request.path
    wants_page = "text/html" in request.headers.get("Accept", "")
    return wants_page and any(path == page or path.startswith(page + "/") for page in PAGES)


def _offered_tokens(request: web.Request) -> Iterator[str]:
    headers = request.headers
    for name in ("Authorization", "X-Blaxel-Authorization"):
        scheme, _, token = headers.get(name, "").partition(" ")
        if scheme.lower() == "bearer":
            yield token.strip()
    if (preview := headers.get("X-Blaxel-Preview-Token")) is not None:
        yield preview
    for name in TOKEN_PARAMETERS:
        yield from request.query.getall(name, ())
