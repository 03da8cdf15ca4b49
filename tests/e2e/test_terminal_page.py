"""The terminal page in a real browser, on a real daemon.

With SCREENSHOTS=directory the pictures for docs/ are written there.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.browser import CHROMIUM, Tab, open_tab
from tests.serving import free_port

StartDaemon = Callable[..., SimpleNamespace]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

SHELL = {"SHELL": "/bin/sh", "PS1": "$ "}
LINES = """
[...Array(terminal.buffer.active.length).keys()]
  .map((i) => terminal.buffer.active.getLine(i).translateToString(true)).join("\\n")
"""
COLOUR_AND_WIDTHS = """
[...Array(terminal.buffer.active.length).keys()]
  .map((i) => terminal.buffer.active.getLine(i))
  .filter((line) => line.translateToString().startsWith("green"))
  .map((line) => [
    line.getCell(0).getFgColor(), ...[6, 11, 13].map((column) => line.getCell(column).getWidth()),
  ])[0]
"""


COPIED = """
(async () => {
  const later = () => new Promise((then) => setTimeout(then, 20));
  while (await navigator.clipboard.readText() !== TEXT) await later();
})()
"""
CELL = """
(() => {
  const box = document.querySelector(".xterm-screen").getBoundingClientRect();
  const buffer = terminal.buffer.active;
  const rows = [...Array(buffer.length).keys()];
  const row = rows.findIndex((i) => buffer.getLine(i).translateToString().startsWith(TEXT));
  const y = row - buffer.viewportY + 0.5;
  return [COLUMN * box.width / terminal.cols + box.x, y * box.height / terminal.rows + box.y];
})()
"""


async def place(tab: Tab, text: str, column: float) -> tuple[float, float]:
    """Where on the page a column of the line is that begins with a text."""
    cell = CELL.replace("TEXT", repr(text)).replace("COLUMN", str(column))
    x, y = await tab.evaluate(cell)
    return x, y


async def screen(tab: Tab) -> str:
    """All text of the terminal, scrolled lines included."""
    return str(await tab.evaluate(LINES))


async def until_shown(tab: Tab, text: str) -> None:
    """Wait until the terminal shows something."""
    await tab.until(f"({LINES}).includes({text!r})")


async def open_terminal(tab: Tab, port: int, query: str = "") -> None:
    await tab.resize(900, 500)
    await tab.open(f"http://127.0.0.1:{port}/terminal{query}")
    await until_shown(tab, "$ ")


def shoot_to() -> Path | None:
    directory = os.environ.get("SCREENSHOTS")
    return Path(directory) if directory else None


async def test_it_works_like_a_terminal(start_daemon: StartDaemon) -> None:
    """Types; colours and wide characters; resizes; a reload brings the history back."""
    daemon = start_daemon(env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port)
        await tab.type("printf '\\033[32mgreen\\033[0m 漢字 é 😀\\n'\r")
        await until_shown(tab, "green 漢字 é 😀")
        assert await tab.evaluate(COLOUR_AND_WIDTHS) == [2, 2, 1, 2]

        await tab.type("stty size\r")
        size = await tab.evaluate("`${terminal.rows} ${terminal.cols}`")
        await until_shown(tab, size)
        await tab.resize(1200, 700)
        await tab.until(f"`${{terminal.rows}} ${{terminal.cols}}` !== {size!r}")
        larger = await tab.evaluate("`${terminal.rows} ${terminal.cols}`")
        await tab.type("stty size\r")
        await until_shown(tab, larger)

        await tab.call("Page.reload")
        await tab.until("terminal.buffer.active.cursorY > 0")
        await until_shown(tab, "green 漢字 é 😀")


async def test_the_end_is_readable(start_daemon: StartDaemon) -> None:
    """The page says how the shell ended; Enter begins a new one."""
    daemon = start_daemon(env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port)
        await tab.type("exit 3\r")
        await until_shown(tab, "The shell has ended with exit code 3.")
        await tab.type("\r")
        await tab.until("terminal.buffer.active.cursorY === 0 && socket.readyState === 1")
        await tab.type("echo $((40 + 2))\r")
        await until_shown(tab, "42")
        assert "has ended" not in await screen(tab)


async def test_it_connects_again(start_daemon: StartDaemon) -> None:
    """It says that the connection is lost, and comes back with the next daemon by itself."""
    port = str(free_port())
    first = start_daemon("-p", port, env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, int(port))
        first.process.terminate()
        first.process.wait(10)
        await tab.until("!document.getElementById('status').hidden")
        start_daemon("-p", port, env=SHELL)
        await tab.until("document.getElementById('status').hidden && socket.readyState === 1")
        await tab.type("echo $((40 + 2))\r")
        await until_shown(tab, "42")
        assert await tab.evaluate("document.getElementById('status').textContent") == ""


async def test_much_output(start_daemon: StartDaemon) -> None:
    """The page asks to wait when it cannot draw so fast; nothing is lost."""
    daemon = start_daemon(env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port)
        await tab.type("seq 200000; echo do''ne\r")
        await tab.until(f"({LINES}).includes('\\ndone')", 60)
        lines = (await screen(tab)).split("\n")
        end = lines.index("done")
        assert lines[end - 9000 : end] == [str(i) for i in range(200_001 - 9000, 200_001)]


async def paste(tab: Tab, text: str) -> None:
    """From the clipboard, as the browser does it for Ctrl-Shift-V."""
    await tab.evaluate(f"navigator.clipboard.writeText({text!r})")
    await tab.shortcut("V", "paste")


async def test_paste(start_daemon: StartDaemon) -> None:
    """Lines arrive as if typed; in brackets where the program asks for them, so that a shell does
    not run them."""
    daemon = start_daemon(env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port)
        await tab.allow_clipboard()
        await paste(tab, "echo $((40 + 2))\necho ü$((40 + 3))\n")
        await until_shown(tab, "\n42\n")
        await until_shown(tab, "$ ü43\n")  # it was typed before the prompt
        await tab.type("printf '\\033[?2004h'; cat -v\r")
        await tab.until("terminal.modes.bracketedPasteMode")
        await paste(tab, "two\nlines")
        await until_shown(tab, "lines^[[201~")
        await tab.type("\r")
        await tab.until(f"({LINES}).split('lines^[[201~').length === 3")  # echo, and cat's own
        assert "^[[200~two" in await screen(tab)


async def test_copy(start_daemon: StartDaemon) -> None:
    """What is selected with the mouse is in the clipboard after Ctrl-Shift-C; nothing is typed."""
    daemon = start_daemon(env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port)
        await tab.allow_clipboard()
        await tab.type("printf 'one 漢字 three\\n'\r")
        await until_shown(tab, "\none 漢字 three")
        before = await screen(tab)
        await tab.drag(await place(tab, "one", 4.1), await place(tab, "one", 13.9))
        await tab.until("terminal.getSelection() === '漢字 three'")
        await tab.shortcut("C")
        await tab.evaluate(COPIED.replace("TEXT", "'漢字 three'"))
        assert await screen(tab) == before


async def test_links(start_daemon: StartDaemon) -> None:
    """An address in the output opens in a new window, which cannot reach back."""
    daemon = start_daemon(env=SHELL)
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port)
        await tab.evaluate("window.open = () => (window.opened = { location: {}, opener: 1 }); 0")
        await tab.type("printf 'http://localhost:1/a?b=c now\\n'\r")
        await until_shown(tab, "\nhttp://localhost:1/a?b=c now")
        there = await place(tab, "http://", 3.5)
        await tab.mouse("mouseMoved", *there)
        await tab.until("document.querySelector('.xterm-cursor-pointer')")
        await tab.mouse("mousePressed", *there)
        await tab.mouse("mouseReleased", *there)
        await tab.until("opened.location.href === 'http://localhost:1/a?b=c'")
        assert await tab.evaluate("opened.opener") is None


async def test_with_a_token(start_daemon: StartDaemon) -> None:
    """A link with the token opens the page, and the token does not stay in the address."""
    daemon = start_daemon(env={**SHELL, "SANDBOX_API_TOKEN": "geheim"})
    async with open_tab() as tab:
        await open_terminal(tab, daemon.port, "?token=geheim&sessionId=mine")
        assert await tab.evaluate("location.search") == "?sessionId=mine"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_light_and_dark(start_daemon: StartDaemon, scheme: str) -> None:
    """As the reader's system has it."""
    daemon = start_daemon(env={**SHELL, "PS1": "\033[36m/app\033[0m $ "})
    async with open_tab() as tab:
        await tab.prefer(scheme)
        await open_terminal(tab, daemon.port)
        background = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        await tab.type("clear; ls --color=always -la /etc/apt /usr/share/doc/dash\r")
        await until_shown(tab, "copyright")
        if (directory := shoot_to()) is not None:
            (directory / f"terminal-{scheme}.png").write_bytes(await tab.screenshot())
        await tab.prefer("dark" if scheme == "light" else "light")
        await tab.until(f"terminal.options.theme !== THEMES.{scheme}")  # at once, without a reload
        assert await tab.evaluate("getComputedStyle(document.body).backgroundColor") != background
