"""Host, Origin and token: who may come in."""

import string
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.api.access import Access, parse_host

AppClient = Callable[..., Awaitable[TestClient]]

TOKEN = "s3cret token-ü"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

SERVED = [
    "localhost", "localhost:8080", "LOCALHOST.", "a.localhost", "127.0.0.1:8080", "10.1.2.3",
    "[::1]", "[::1]:8080", "[2001:db8::1]:80", "sandbox", "my_box:3000", "box.local",
    "host.docker.internal", "box.svc", "box.ns.svc.cluster.local", "x.bl.run", "x.blaxel.ai",
    "x.blaxel.dev", "",
]  # fmt: skip
REFUSED = [
    "evil.example", "evil.example:8080", "evil.example.", "localhost.evil.example",
    "bl.run.evil.io", "xbl.run", "127.0.0.1.evil.io", "127.1.evil", "1.2.3", "256.1.1.1", "[::1",
    "[evil.io]",
    "[::1]x", "::1", "localhost:", "localhost:x", "localhost:999999", "a@b", "a b", "a/b", ".local",
    "-x.local", "x" * 70_000 + ".io",
]  # fmt: skip


def judge(host: str, origin: str | None = None, **rules: tuple[str, ...]) -> str:
    """What is said to this Host and Origin; empty for: come in."""
    access = Access("", rules.get("hosts", ()), rules.get("origins", ()))
    return access._judge(host, origin)


@pytest.mark.parametrize("host", SERVED)
def test_g30_hosts_that_real_clients_send_are_served(host: str) -> None:
    """Addresses, single labels and the platform's names need no setting."""
    assert judge(host) == ""


@pytest.mark.parametrize("host", REFUSED)
def test_g30_foreign_and_malformed_hosts_are_refused(host: str) -> None:
    """A name that an attacker can point at us is refused, and the text names the setting."""
    assert "SANDBOX_ALLOWED_HOSTS" in judge(host)


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("my.example", "My.Example:8080"),
        ("my.example:8080", "my.example"),
        ("*.example", "a.b.example"),
        ("*", "anything.at.all"),
    ],
)
def test_allowed_hosts_are_served(entry: str, host: str) -> None:
    """Names, wildcards and `*` of SANDBOX_ALLOWED_HOSTS."""
    assert judge(host, hosts=(entry,)) == ""


def test_a_wildcard_is_no_substring() -> None:
    """`*.example` is neither `example` nor `badexample`."""
    assert judge("x.badexample", hosts=("*.example",))
    assert judge("evil.io", hosts=("*.example",))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("localhost:8080", "https://localhost:8080"),
        ("box.local", "http://box.local"),
        ("box.local", "https://box.local"),
        ("box.local:443", "https://box.local"),
        ("box.local:80", "http://box.local"),
        ("box.local", "https://BOX.local:443"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("x.bl.run", "https://anything.example"),
        ("x.blaxel.ai", "null"),
    ],
)
def test_own_origins_are_served(host: str, origin: str) -> None:
    """A page that we served may talk to us, also from behind a TLS proxy or the platform's edge."""
    assert judge(host, origin) == ""


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost",
        "http://localhost:3000",
        "http://localhost:8080.evil.example",
        "http://evil@localhost:8080",
        "null",
        "",
        "localhost:8080",
        "chrome-extension://abcdef",
    ],
)
def test_g30_foreign_origins_are_refused(origin: str) -> None:
    """Everything that is not the Host itself is refused, and the text names the setting."""
    assert "SANDBOX_ALLOWED_ORIGINS" in judge("localhost:8080", origin)


@pytest.mark.parametrize("allowed", ["https://app.example", "https://APP.example/", "*"])
def test_allowed_origins_are_served(allowed: str) -> None:
    """SANDBOX_ALLOWED_ORIGINS lists origins or `*`."""
    assert judge("localhost:8080", "https://app.example", origins=(allowed,)) == ""


@given(st.text(max_size=80))
def test_any_text_is_a_host_or_is_not(text: str) -> None:
    """The parser never fails, and what it accepts is in normal form."""
    if (parsed := parse_host(text)) is not None:
        name, port = parsed
        assert name == name.lower()
        assert not set(name) & set("/@[] \t\r\n?#")
        assert port is None or 0 <= port <= 99999


LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)


@given(st.lists(LABEL, min_size=1, max_size=4), st.none() | st.integers(0, 65535))
def test_names_come_through_unchanged(labels: list[str], port: int | None) -> None:
    """Name and port of a well-formed Host are what was sent."""
    name = ".".join(labels)
    assert parse_host(name if port is None else f"{name}:{port}") == (name, port)


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_ipv6_addresses_need_brackets(address: object, port: int) -> None:
    """`[v6]:port` is an address; without brackets nobody knows where the port begins."""
    assert parse_host(f"[{address}]:{port}") == (str(address), port)
    assert parse_host(f"{address}:{port}") is None


@given(LABEL, LABEL, LABEL.filter(lambda label: label not in {"svc", "local", "internal"}))
def test_g30_no_public_name_is_served(first: str, second: str, top: str) -> None:
    """Whatever stands before a top-level name that is not ours does not help."""
    if not top.isdigit() and top != "localhost":
        assert judge(f"{first}.{second}.{top}")


async def test_g30_foreign_requests_never_reach_a_handler(app_client: AppClient) -> None:
    """403 with a JSON error for a foreign Host or Origin, preflights included; no CORS headers."""
    client = await app_client()
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        for method, path in (("GET", "/"), ("OPTIONS", "/process"), ("GET", "/nope")):
            answer = await client.request(method, path, headers=headers)
            assert answer.status == 403, (method, path)
            assert "SANDBOX_ALLOWED" in (await answer.json())["error"]
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert (await client.get("/health", headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN} "},
        {"X-Blaxel-Authorization": f"Bearer {TOKEN}"},
        {"X-Blaxel-Preview-Token": TOKEN},
    ],
)
async def test_g30_the_token_opens_in_every_header(
    app_client: AppClient, headers: dict[str, str]
) -> None:
    """All forms that the official clients use."""
    client = await app_client(token=TOKEN)
    assert (await client.get("/", headers=headers)).status == 200


@pytest.mark.parametrize("name", ["token", "bl_preview_token"])
async def test_g30_the_token_opens_in_the_query(app_client: AppClient, name: str) -> None:
    """For WebSockets and links, which cannot send headers."""
    client = await app_client(token=TOKEN)
    assert (await client.get("/", params={name: TOKEN})).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"X-Blaxel-Preview-Token": TOKEN[:-1]},
        {"Cookie": "sandbox_api_session=x"},
    ],
)
async def test_g30_nothing_answers_without_the_token(
    app_client: AppClient, headers: dict[str, str]
) -> None:
    """401 on every route and on none, but for /health and preflights."""
    client = await app_client(token=TOKEN)
    routes = {(r.method, r.resource.canonical) for r in client.app.router.routes()}
    routes = {("PATCH" if method == "*" else method, path) for method, path in routes}
    for method, path in {*routes, ("GET", "/nope"), ("GET", "/health/"), ("GET", "/%2Fhealth")}:
        url = path.replace("{", "").replace("}", "")
        answer = await client.request(method, url, headers=headers)
        assert answer.status == (200 if path == "/health" else 401), (method, path)
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await client.options("/process", headers=headers)).status == 204


async def test_g30_a_page_turns_the_token_into_a_cookie(app_client: AppClient) -> None:
    """The browser is sent on without the token, and the cookie opens; under /port it does not."""
    client = await app_client(token=TOKEN)
    query = {"token": TOKEN, "x": "1"}
    page = "/swagger/index.html"
    wrong = await client.get(page, params={"token": "x"}, headers={"Accept": "text/html"})
    assert wrong.status == 401
    answer = await client.get(
        page, params=query, headers={"Accept": "text/html"}, allow_redirects=False
    )
    assert (answer.status, answer.headers["Location"]) == (303, f"{page}?x=1")
    attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert TOKEN not in answer.headers["Set-Cookie"]
    cookie = {"Cookie": attributes[0]}
    assert (await client.get("/", headers=cookie)).status == 200
    origin = str(client.make_url("/"))
    for path in ("port/3000/", "%70ort/3000/", "/port/1"):
        refused = await client.get("/", headers={**cookie, "Referer": f"{origin}{path}"})
        assert refused.status == 401, path
