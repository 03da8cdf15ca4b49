"""A real browser, headless, driven over its DevTools protocol."""

import asyncio
import base64
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CTRL, SHIFT = 2, 8  # how the protocol tells modifiers
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Tab:
    """One page."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command of the protocol, and its result; events are not looked at."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(30):
            while (answer := await self._socket.receive_json()).get("id") != number:
                pass
        assert "error" not in answer, answer
        return dict(answer["result"])

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - JSON is any
        """The value of a JavaScript expression; a promise is awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until an expression is true; one that fails is not, yet."""
        wanted = f"(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()"
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(wanted):  # noqa: ASYNC110 - pages have no such event
                await asyncio.sleep(0.02)

    async def type(self, text: str) -> None:
        """Keys, as from a keyboard; `\\r` is Enter."""
        for piece in re.findall("\r|[^\r]+", text):
            if piece == "\r":
                await self.press("Enter", 13, piece)
            else:
                await self.call("Input.insertText", text=piece)

    async def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """One key."""
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def shortcut(self, letter: str, *commands: str) -> None:
        """Ctrl, Shift and a letter; what the browser itself does then are editing commands."""
        key = {"key": letter, "code": f"Key{letter}", "windowsVirtualKeyCode": ord(letter)}
        held = {"modifiers": CTRL | SHIFT}
        await self.call(
            "Input.dispatchKeyEvent", type="rawKeyDown", commands=commands, **key, **held
        )
        await self.call("Input.dispatchKeyEvent", type="keyUp", **key, **held)

    async def mouse(self, kind: str, x: float, y: float) -> None:
        """`mousePressed`, `mouseMoved`, `mouseReleased`, with the left button."""
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        if kind == "mouseMoved":
            button = {}
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """From one place to another, with the button held."""
        await self.mouse("mousePressed", *start)
        await self.call(
            "Input.dispatchMouseEvent", type="mouseMoved", x=end[0], y=end[1], buttons=1
        )
        await self.mouse("mouseReleased", *end)

    async def allow_clipboard(self) -> None:
        """As if the user had been asked, and had the page in front."""
        names = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        await self.call("Browser.grantPermissions", permissions=names)
        await self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    async def resize(self, width: int, height: int) -> None:
        """Another size of the window, in pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def open_tab() -> AsyncIterator[Tab]:
    """A browser with one empty page."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        try:
            async with ClientSession() as session:
                port = await _debugging_port(Path(profile))
                async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
                    pages = [one for one in await reply.json() if one["type"] == "page"]
                url = pages[0]["webSocketDebuggerUrl"]
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            browser.kill()
            await browser.wait()


async def _debugging_port(profile: Path) -> int:
    """Where it listens: it writes that to a file once it does."""
    async with asyncio.timeout(30):
        while len(lines := _lines(profile / "DevToolsActivePort")) < 2:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)
    return int(lines[0])


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
