"""The contract and its page, as a sandbox without internet gets them."""

import hashlib
import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from sandbox_api.api import docs

Client = TestClient[web.Request, web.Application]
WEB = Path(docs.__file__).parents[1] / "web"


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Client:
    app = web.Application()
    app.add_routes(docs.ROUTES)
    return await aiohttp_client(app)


async def test_serves_the_contract(client: Client) -> None:
    """Whoever has the daemon has its contract."""
    reply = await client.get("/openapi.yml")
    assert reply.status == 200
    assert reply.content_type == "application/yaml"
    assert await reply.read() == (WEB / "openapi.yml").read_bytes()


async def test_swagger_leads_to_the_page(client: Client) -> None:
    """`/swagger`, where people look first, is a redirect that browsers remember."""
    reply = await client.get("/swagger", allow_redirects=False)
    assert (reply.status, reply.headers["Location"]) == (301, "/swagger/index.html")


async def test_page_loads_only_what_the_daemon_serves(client: Client) -> None:
    """Everything that the page names is served beside it, so it works without internet."""
    page = await client.get("/swagger/index.html")
    assert page.content_type == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', await page.text())
    types = {}
    for url in named:
        if not url.startswith(("data:", "https:")):
            reply = await client.get(f"/swagger/{url}")
            assert reply.status == 200, url
            types[url] = reply.content_type
    assert types == {
        "swagger-ui.css": "text/css",
        "swagger-ui-bundle.js": "text/javascript",
        "initializer.js": "text/javascript",
        "../openapi.yml": "application/yaml",
    }


@pytest.mark.parametrize("name", ["nope.js", "SHA256SUMS", "..%2Fopenapi.yml", "openapi.yml"])
async def test_unknown_asset_is_404(client: Client, name: str) -> None:
    """Only the page's own files are served, wherever the name leads."""
    reply = await client.get(f"/swagger/{name}")
    assert reply.status == 404


async def test_assets_are_cacheable(client: Client) -> None:
    """A browser that has the 1.7 MB script does not load it again."""
    first = await client.get("/swagger/swagger-ui-bundle.js")
    assert "max-age" in first.headers["Cache-Control"]
    again = await client.get(
        "/swagger/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (again.status, await again.read()) == (304, b"")


def test_committed_assets_are_what_the_list_says() -> None:
    """What is served is the published package, byte for byte: `scripts/web` renews both."""
    listed = (WEB / "swagger" / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in listed} >= {"swagger-ui-bundle.js", "swagger-ui.css"}
    for line in listed:
        digest, name = line.split()
        assert hashlib.sha256((WEB / "swagger" / name).read_bytes()).hexdigest() == digest, name
