"""`/port`: the rules on Host, Origin and token come first, and no token of ours goes on (G30)."""

import logging
from types import SimpleNamespace

import pytest
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient
from yarl import URL

from tests.api.proxy.conftest import AppClient, exchange

TOKEN = "s3cret-token/+ü"
QUOTED = "s3cret-token%2F%2B%C3%BC"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def guarded(app_client: AppClient) -> TestClient:
    """A daemon that wants a token."""
    return await app_client(token=TOKEN)


async def status(client: TestClient, path: str, method: str = "GET", **headers: str) -> int:
    """The status alone."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, path, headers=names, allow_redirects=False) as answer:
        return answer.status


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
async def test_g30_foreign_requests_never_reach_an_app(
    client: TestClient, recorder: SimpleNamespace, method: str, headers: dict[str, str]
) -> None:
    """403 for a foreign Host or Origin, preflights and WebSockets included."""
    path = f"/port/{recorder.port}/"
    assert await status(client, path, method, **headers) == 403
    with pytest.raises(WSServerHandshakeError) as refused:
        await client.ws_connect(path, headers=headers)
    assert refused.value.status == 403
    assert recorder.heads == []


async def test_g30_no_app_is_reached_without_the_token(
    guarded: TestClient, recorder: SimpleNamespace
) -> None:
    """Nor with a wrong one; OPTIONS that is no preflight needs it like all else."""
    path = f"/port/{recorder.port}/"
    assert await status(guarded, path) == 401
    assert await status(guarded, path, Authorization="Bearer wrong") == 401
    assert await status(guarded, path + "?token=wrong") == 401
    assert await status(guarded, path, "OPTIONS") == 401
    assert recorder.heads == []


async def test_a_preflight_is_the_apps_to_answer(
    guarded: TestClient, recorder: SimpleNamespace
) -> None:
    """A browser sends it without credentials, so it needs none."""
    origin = str(guarded.make_url("/")).rstrip("/")
    recorder.answer = b"HTTP/1.1 204 X\r\nAccess-Control-Allow-Origin: y\r\n\r\n"
    headers = {"Access-Control-Request-Method": "PUT", "Origin": origin}
    async with guarded.options(f"/port/{recorder.port}/", headers=headers) as answer:
        assert (answer.status, answer.reason) == (204, "X")
        assert dict(answer.headers) == {"Access-Control-Allow-Origin": "y"}
    async with guarded.options(f"/port/{recorder.port}/", headers=headers, data=b"x") as answer:
        assert answer.status == 401
    assert len(recorder.heads) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer   {TOKEN}"},
        {"X-Blaxel-Authorization": f"Bearer {TOKEN}"},
        {"X-Blaxel-Preview-Token": TOKEN},
    ],
)
async def test_g30_no_app_sees_the_token_of_a_header(
    guarded: TestClient, recorder: SimpleNamespace, headers: dict[str, str]
) -> None:
    """It opens the way and goes no further."""
    assert await status(guarded, f"/port/{recorder.port}/", **headers) == 200
    assert b"s3cret" not in recorder.heads[0]
    assert b"uthorization" not in recorder.heads[0]


async def test_an_apps_own_credentials_go_on(
    guarded: TestClient, recorder: SimpleNamespace
) -> None:
    """The daemon's token can come in another header."""
    own = {"Authorization": "Bearer app", "X-Blaxel-Preview-Token": TOKEN}
    assert await status(guarded, f"/port/{recorder.port}/", **own) == 200
    assert b"\r\nAuthorization: Bearer app\r\n" in recorder.heads[0]


async def test_the_platforms_own_headers_never_go_on(
    client: TestClient, recorder: SimpleNamespace
) -> None:
    """They hold a key of the user, whether a token is set or not."""
    key = {"X-Blaxel-Authorization": "Bearer key", "X-Blaxel-Preview-Token": "key"}
    await status(client, f"/port/{recorder.port}/", **key)
    assert b"key" not in recorder.heads[0]


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (f"token={QUOTED}", "/x"),
        (f"a=%20&token={QUOTED}&b", "/x?a=%20&b"),
        (f"a=1&bl_preview_token={QUOTED}", "/x?a=1"),
        (f"to%6ben={QUOTED}&token=app", "/x?token=app"),
        (f"token={QUOTED}#a&b", "/x?#a&b"),
    ],
)
async def test_g30_no_app_sees_the_token_of_a_query(
    guarded: TestClient, recorder: SimpleNamespace, sent: str, got: str
) -> None:
    """It is cut out, however it is written; all else stays as it was sent."""
    referer = f"http://x/port/1/y?{sent}"
    head = f"GET /port/{recorder.port}/x?{sent} HTTP/1.1\r\nHost: x\r\nReferer: {referer}\r\n"
    await exchange(guarded, f"{head}Connection: close\r\n\r\n".encode())
    head = recorder.heads[0].decode()
    assert head.startswith(f"GET {got} HTTP/1.1\r\n")
    assert f"\r\nReferer: http://x/port/1/y{got[2:]}\r\n" in head
    assert "s3cret" not in head


async def test_g30_a_browser_opens_an_app_with_a_token(
    guarded: TestClient, recorder: SimpleNamespace
) -> None:
    """It gets a cookie for apps alone, which neither the app nor the daemon's routes take."""
    path = f"/port/{recorder.port}/a%2Fb"
    async with guarded.get(
        URL.build(path=path, query_string=f"x=1&token={QUOTED}", encoded=True),
        headers={"Accept": "text/html,*/*"},
        allow_redirects=False,
    ) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, path + "?x=1")
        first, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/port"} <= set(attributes)
    assert recorder.heads == []
    guarded.session.cookie_jar.clear()
    cookies = f"a=b; {first}; c=d"
    page = str(guarded.make_url(path))
    assert await status(guarded, path, Cookie=cookies, Referer=page) == 200
    assert b"\r\nCookie: a=b; c=d\r\n" in recorder.heads[0]
    assert await status(guarded, path, Cookie=first) == 200
    assert b"ookie" not in recorder.heads[1]
    assert await status(guarded, "/process", Cookie=first) == 401


async def test_g30_the_cookie_of_our_pages_is_no_apps_to_use(
    guarded: TestClient, recorder: SimpleNamespace
) -> None:
    """It opens apps, but an app's page cannot use it for the daemon's routes, nor see it."""
    async with guarded.get(
        "/swagger/index.html",
        params={"token": TOKEN},
        headers={"Accept": "text/html"},
        allow_redirects=False,
    ) as answer:
        cookie = answer.headers["Set-Cookie"].split("; ")[0]
    guarded.session.cookie_jar.clear()
    path = f"/port/{recorder.port}/"
    page = str(guarded.make_url(path))
    assert await status(guarded, path, Cookie=cookie, Referer=page) == 200
    assert b"ookie" not in recorder.heads[0]
    assert await status(guarded, "/process", Cookie=cookie) == 200
    assert await status(guarded, "/process", Cookie=cookie, Referer=page) == 401


async def test_g30_the_log_has_a_line_and_no_secret(
    guarded: TestClient, recorder: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """What went to an app is told like all else, OPTIONS too."""
    caplog.set_level(logging.INFO)
    path = f"/port/{recorder.port}/x"
    await status(guarded, f"{path}?a=1&token={QUOTED}")
    await status(guarded, path, "OPTIONS", **BEARER)
    assert f'"msg":"GET {path}?a=1&token=%5BREDACTED%5D 200 ' in caplog.text
    assert f'"msg":"OPTIONS {path} 200 ' in caplog.text
    assert "s3cret" not in caplog.text
