"""Who may come in: the rules on Host, Origin and token.

Until a token is configured the daemon trusts its network, with two rules that real clients never
notice: a Host that a foreign web page could have chosen is refused (DNS rebinding), and so is a
foreign Origin (cross-site requests). `/health` is exempt from everything.

An app under `/port` shares our origin, so its pages must not be able to use what a browser knows of
us. They get a cookie of their own, which opens nothing but `/port`; and no token of ours goes on to
the app.
"""

import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from aiohttp import web
from yarl import URL

from sandbox_api.errors import ForbiddenError, UnauthorizedError

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

COOKIE = "sandbox_api_session"
APP_COOKIE = "sandbox_api_port"
TOKEN_PARAMETERS = ("token", "bl_preview_token")
OPEN_PATH = "/health"
PAGES = ("/swagger", "/terminal")
APPS = "/port/"

EDGE_SUFFIXES = (".bl.run", ".blaxel.ai", ".blaxel.dev")
HOST_SUFFIXES = (
    ".localhost",
    ".local",
    ".internal",
    ".svc",
    ".cluster.local",
    *EDGE_SUFFIXES,
)
_OWN_HEADERS = frozenset({b"x-blaxel-authorization", b"x-blaxel-preview-token"})
_OWN_COOKIES = frozenset({COOKIE.encode(), APP_COOKIE.encode()})
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
        self._token = _bytes(token)
        self._session = hmac.new(self._token, b"sandbox-api page session", "sha256").hexdigest()
        self._app_session = hmac.new(self._token, b"sandbox-api app session", "sha256").hexdigest()
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
        if not self._token or _is_free(request):
            return
        offered = list(_offered_tokens(request))
        if any(self._matches(token) for token in offered) or self._has_session(request):
            return
        if offered:
            raise UnauthorizedError("the token is wrong; send the one the daemon was started with")
        raise UnauthorizedError("a token is needed; send it as 'Authorization: Bearer <token>'")

    def page_login(self, request: web.Request) -> web.Response | None:
        """Turn a token in a page's address into a cookie.

        A browser that opens one of our pages, or one of an app, with `?token=` is sent to the same
        page without it, so that the token is in no history, in no Referer, and nothing that the
        page's scripts can read. Call after `check_token`.

        Returns:
            The redirect, or None where this is not such a request.
        """
        if not self._token or request.method != "GET" or not _is_page(request):
            return None
        query = request.rel_url.raw_query_string
        kept = self.without_token(query)
        if kept == query:
            return None
        location = request.rel_url.raw_path + ("?" + kept if kept else "")
        response = web.Response(status=303, headers={"Location": location})
        name, value, path = COOKIE, self._session, "/"
        if is_for_app(request):
            name, value, path = APP_COOKIE, self._app_session, "/port"
        response.set_cookie(name, value, httponly=True, samesite="Strict", path=path)
        return response

    def without_token(self, query: str) -> str:
        """A raw query without the parameters that hold the token; all others as they were sent.

        A fragment, which no browser sends, is not part of a parameter.
        """
        if not self._token or not query:
            return query
        query, mark, fragment = query.partition("#")
        parts = [part for part in query.split("&") if not self._holds_token(part)]
        return "&".join(parts) + mark + fragment

    def without_credentials(self, headers: RawHeaders) -> RawHeaders:
        """A request's headers without what is meant for the daemon and its gateway alone.

        These are the token, our cookies, and what has the platform's own names. An `Authorization`
        that is not ours is the app's.
        """
        shown = ((name, self._shown(name.lower(), value)) for name, value in headers)
        return [(name, value) for name, value in shown if value is not None]

    def _shown(self, name: bytes, value: bytes) -> bytes | None:
        """A header's value as an app may see it; None for not at all."""
        if name in _OWN_HEADERS:
            return None
        if name == b"authorization":
            scheme, _, token = _text(value).partition(" ")
            return None if scheme.lower() == "bearer" and self._opens(token.strip()) else value
        if name == b"referer":
            page, mark, query = _text(value).partition("?")
            kept = self.without_token(query)
            return value if kept == query else _bytes(page + mark * bool(kept) + kept)
        if name == b"cookie":
            pairs = value.split(b";")
            kept_pairs = [p for p in pairs if p.partition(b"=")[0].strip() not in _OWN_COOKIES]
            return value if kept_pairs == pairs else b";".join(kept_pairs).strip() or None
        return value

    def _holds_token(self, parameter: str) -> bool:
        query = URL.build(query_string=parameter, encoded=True).query
        return any(self._matches(v) for name in TOKEN_PARAMETERS for v in query.getall(name, ()))

    def _opens(self, token: str) -> bool:
        return bool(self._token) and self._matches(token)

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(_bytes(token), self._token)

    def _has_session(self, request: web.Request) -> bool:
        """Whether a cookie of ours came that opens this path.

        Under /port each does, since an app learns nothing by it that it does not know. Elsewhere
        it is the one of our pages alone, and not for a request that an app's page has made.
        """
        if is_for_app(request):
            return self._has_cookie(request, APP_COOKIE, self._app_session) or self._has_cookie(
                request, COOKIE, self._session
            )
        if _is_below_port(request.headers.get("Referer", "")):
            return False
        return self._has_cookie(request, COOKIE, self._session)

    def _has_cookie(self, request: web.Request, name: str, value: str) -> bool:
        pairs = (pair.strip() for pair in request.headers.get("Cookie", "").split(";"))
        wanted = f"{name}={value}".encode()
        return any(hmac.compare_digest(_bytes(pair), wanted) for pair in pairs)

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


def is_for_app(request: web.BaseRequest) -> bool:
    """Whether a request goes on to an app, so that the daemon's own habits are not for it."""
    return request.rel_url.path_safe.startswith(APPS)


def _is_free(request: web.Request) -> bool:
    """Whether no token is needed: for /health, and OPTIONS, of which an app gets preflights only.

    A browser sends a preflight without credentials, and it asks for nothing (WHATWG Fetch).
    """
    if request.method != "OPTIONS":
        return request.path == OPEN_PATH
    names = request.headers
    preflight = "Origin" in names and "Access-Control-Request-Method" in names
    return not is_for_app(request) or (preflight and not request.can_read_body)


def _is_page(request: web.Request) -> bool:
    path = request.path
    if "text/html" not in request.headers.get("Accept", ""):
        return False
    ours = any(path == page or path.startswith(page + "/") for page in PAGES)
    return ours or is_for_app(request)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


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
