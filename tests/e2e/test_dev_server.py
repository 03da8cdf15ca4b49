"""A dev server with hot reload, seen through /port in a real browser.

Vite makes absolute addresses, so it has to know where it is seen: `--base`. The daemon passes the
whole path on below `/port/abs`.
"""

import asyncio
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.browser import CHROMIUM, open_tab
from tests.serving import free_port

StartDaemon = Callable[..., SimpleNamespace]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]

PACKAGE = {"private": True, "type": "module", "devDependencies": {"vite": "7.3.8"}}

PAGE = '<!doctype html><div id="app"></div><script type="module" src="/main.js"></script>'
MAIN = """
import { text } from "./text.js";
const show = (value) => { document.getElementById("app").textContent = value; };
show(text);
window.loads = (window.loads || 0) + 1;
import.meta.hot.accept("./text.js", (module) => show(module.text));
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app that shows a text, with its dev server installed."""
    directory = tmp_path / "app"
    directory.mkdir()
    files = {
        "package.json": json.dumps(PACKAGE),
        "index.html": PAGE,
        "main.js": MAIN,
        "text.js": 'export const text = "before";',
    }
    for name, content in files.items():
        (directory / name).write_text(content)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    try:
        subprocess.run(install, cwd=directory, check=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("vite cannot be installed from npm")
    return directory


def send(method: str, url: str, body: object) -> None:
    """A request with a JSON body; it has to succeed."""
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)
    urllib.request.urlopen(request, timeout=60).close()


async def test_hot_reload(start_daemon: StartDaemon, app: Path) -> None:
    """An edit through the daemon is seen in the open page at once, and the page is not loaded
    again: the app's WebSocket works."""
    daemon, port = start_daemon(), free_port()
    base = f"http://127.0.0.1:{daemon.port}"
    seen_at = f"/port/abs/{port}/"
    command = f"npx vite --port {port} --strictPort --host 0.0.0.0 --base {seen_at}"
    start = {"name": "vite", "command": command, "workingDir": str(app)}
    send("POST", f"{base}/process", {**start, "waitForPorts": [port], "timeout": 60})
    async with open_tab() as tab:
        await tab.open(f"{base}{seen_at}")
        await tab.until("document.getElementById('app').textContent === 'before'")
        edit = {"content": 'export const text = "after";'}
        async with asyncio.timeout(30):
            while await tab.evaluate("document.getElementById('app').textContent") != "after":
                send("PUT", f"{base}/filesystem/{app}/text.js", edit)  # until its socket is open
                await asyncio.sleep(0.5)
        assert await tab.evaluate("window.loads") == 1
    request = urllib.request.Request(f"{base}/process/vite", method="DELETE")
    urllib.request.urlopen(request, timeout=20).close()  # noqa: ASYNC210 - nothing else runs
