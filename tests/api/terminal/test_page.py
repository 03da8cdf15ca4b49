"""The page with a terminal, as a sandbox without internet gets it."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp.test_utils import TestClient

from sandbox_api.api import assets

AppClient = Callable[..., Awaitable[TestClient]]
WEB = Path(assets.__file__).parents[1] / "web" / "terminal"


async def test_page_loads_only_what_the_daemon_serves(app_client: AppClient) -> None:
    """Everything that the page names is served beside it, whatever the base path is."""
    client = await app_client()
    async with client.get("/terminal") as page:
        assert page.content_type == "text/html"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        named = re.findall(r'(?:src|href)="([^"]+)"', await page.text())
    files = {url for url in named if not url.startswith("data:")}
    assert {url.rpartition("/")[0] for url in files} == {"terminal/assets"}
    assert {Path(url).name for url in files} == {
        path.name for path in WEB.iterdir() if path.suffix in {".js", ".css"}
    }
    for url in files:
        async with client.get(f"/{url}") as reply:
            assert reply.status == 200, url
    async with client.get("/terminal/assets/SHA256SUMS") as reply:
        assert reply.status == 404


def test_committed_assets_are_what_the_list_says() -> None:
    """What is served is the published package, byte for byte: `scripts/web` renews both."""
    lines = (WEB / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    assert {"xterm.js", "xterm.css", "addon-fit.js", "addon-web-links.js"} < listed.keys()
    for name, digest in listed.items():
        assert hashlib.sha256((WEB / name).read_bytes()).hexdigest() == digest, name
