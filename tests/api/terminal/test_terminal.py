"""Terminals over WebSockets, as old pages and new clients use them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient

from sandbox_api.api import terminal
from sandbox_api.api.terminal import MAX_MESSAGE_BYTES
from sandbox_api.api.wire import SHUTDOWN, TERMINALS

AppClient = Callable[..., Awaitable[TestClient]]


class Page:
    """One connection, and what it was told."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.text = ""
        self.messages: list[dict[str, Any]] = []

    async def type(self, text: str) -> None:
        """Send keys."""
        await self.socket.send_json({"type": "input", "data": text})

    async def until(self, wanted: str) -> None:
        """Read until the output holds this text."""
        while wanted not in self.text:
            try:
                self._take(await self.socket.receive_str(timeout=30))
            except TimeoutError:
                pytest.fail(f"no {wanted!r} in {self.text!r}")

    async def until_closed(self) -> int | None:
        """Read to the end; the close code."""
        async with asyncio.timeout(30):
            while (message := await self.socket.receive()).type is WSMsgType.TEXT:
                self._take(message.data)
        return self.socket.close_code

    def _take(self, line: str) -> None:
        assert line.endswith("\n")
        message = json.loads(line)
        self.messages.append(message)
        if message["type"] == "output":
            self.text += message["data"]


@pytest.fixture
async def client(app_client: AppClient) -> TestClient:
    """An application whose shells are plain."""
    return await app_client(launch_environment={"SHELL": "/bin/sh", "PS1": "$ "})


@asynccontextmanager
async def open_page(client: TestClient, **query: str) -> AsyncIterator[Page]:
    async with client.ws_connect("/terminal/ws", params=query) as socket:
        page = Page(socket)
        await page.until("$ ")
        yield page


async def test_an_old_page(client: TestClient) -> None:
    """JSON lines in text frames, both ways (spec/system.md 14)."""
    async with open_page(client, cols="100", rows="30") as page:
        await page.type("stty size\r")
        await page.until("30 100")
        await page.socket.send_bytes(b'{"type":"resize","cols":120,"rows":40}')
        await page.type("stty size\r")
        await page.until("40 120")
        assert {message["type"] for message in page.messages} == {"output"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"type":"what"}',
        '{"type":"input"}',
        '{"type":"input","data":5}',
        '{"type":"resize","cols":-1,"rows":5}',
        '{"type":"resize","cols":99999,"rows":5}',
        '{"type":"resize","cols":"1","rows":5}',
        "[" * 100_000,
    ],
)
async def test_a_message_that_is_none_is_ignored(client: TestClient, text: str) -> None:
    """The connection stays."""
    async with open_page(client) as page:
        await page.socket.send_str(text)
        await page.socket.send_bytes(b"\xff\xfe")
        await page.type("echo $((40 + 2))\r")
        await page.until("42")
        assert {message["type"] for message in page.messages} == {"output"}


async def test_characters_are_whole(client: TestClient) -> None:
    """However the bytes of one come, it is one in the answer."""
    async with open_page(client) as page:
        await page.type(
            "printf '\\303'; sleep 0.1; printf '\\251\\360\\237'; printf '\\230\\200'\r"
        )
        await page.until("é😀")
        assert "\ufffd" not in page.text


async def test_the_end_is_told(client: TestClient) -> None:
    """How the shell ended, then a proper close."""
    async with open_page(client) as page:
        await page.type("exit 7\r")
        assert await page.until_closed() == 1000
        assert page.messages[-1] == {"type": "exit", "exitCode": 7, "signal": None}


async def test_bytes_for_who_asks(client: TestClient) -> None:
    """Binary frames carry keys and output as they are; text frames the rest."""
    async with client.ws_connect("/terminal/ws?encoding=binary") as socket:
        await socket.send_bytes(b"printf '\\377\\376'; exit 3\r")
        received, controls = b"", []
        async with asyncio.timeout(30):
            while (message := await socket.receive()).type in {WSMsgType.BINARY, WSMsgType.TEXT}:
                if message.type is WSMsgType.BINARY:
                    received += message.data
                else:
                    controls.append(json.loads(message.data))
        assert b"\xff\xfe" in received
        assert controls == [{"type": "exit", "exitCode": 3, "signal": None}]


async def test_a_shell_that_cannot_start(client: TestClient) -> None:
    """The reason comes as a message, then a close."""
    async with client.ws_connect("/terminal/ws?shell=/nope") as socket:
        page = Page(socket)
        assert await page.until_closed() == 1008
        (error,) = page.messages
        assert error["type"] == "error"
        assert error["data"].endswith("fork/exec /nope: no such file or directory")


async def test_there_are_only_so_many(app_client: AppClient) -> None:
    """One more is told why not; the others go on."""
    client = await app_client(launch_environment={"SHELL": "/bin/sh", "PS1": "$ "}, max_terminals=1)
    async with open_page(client, sessionId="one") as page:
        async with client.ws_connect("/terminal/ws?sessionId=two") as socket:
            refused = Page(socket)
            assert await refused.until_closed() == 1008
            assert "DELETE /terminal/sessions" in refused.messages[0]["data"]
        await page.type("echo on\r")
        await page.until("\non")


async def test_who_is_silent_is_asked(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway closes what is silent; and a client that answers no ping has gone."""
    monkeypatch.setattr(terminal, "HEARTBEAT_S", 0.2)
    async with asyncio.timeout(20):
        async with client.ws_connect("/terminal/ws", autoping=False) as socket:
            kinds = set()
            while (kind := (await socket.receive()).type) is not WSMsgType.CLOSED:
                kinds.add(kind)
            assert WSMsgType.PING in kinds
        monkeypatch.undo()
        async with open_page(client) as page:  # the session is there
            await page.type("echo on\r")
            await page.until("\non")


async def test_sessions_are_listed_and_ended(client: TestClient) -> None:
    """A session outlives its clients; ending it is told to who looks."""
    async with open_page(client, sessionId="a/b\n") as page:
        await page.type("echo kept\r")
        await page.until("\nkept")
    async with client.get("/terminal/sessions") as reply:
        (session,) = (await reply.json())["sessions"]
    assert (session["sessionId"], session["shell"], session["cols"]) == ("a/b\n", "/bin/sh", 80)
    async with open_page(client, sessionId="a/b\n") as page:
        assert "\nkept" in page.text
        async with client.delete("/terminal/sessions/a/b%0A") as reply:
            assert reply.status == 200
        assert await page.until_closed() == 1000
        assert page.messages[-1]["signal"] == "SIGHUP"
    async with client.delete("/terminal/sessions/a/b%0A") as reply:
        assert reply.status == 404
        assert "'a/b\n' not found" in (await reply.json())["error"]
    async with client.get("/terminal/sessions") as reply:
        assert (await reply.json())["sessions"] == []


async def test_g30_a_page_of_somebody_else_gets_no_terminal(client: TestClient) -> None:
    """A WebSocket is not held back by browsers: the daemon has to look at the origin."""
    with pytest.raises(WSServerHandshakeError) as caught:
        await client.ws_connect("/terminal/ws", headers={"Origin": "http://evil.example"})
    assert caught.value.status == 403


async def test_g30_with_a_token(app_client: AppClient) -> None:
    """It stands in the query, as pages can send no headers."""
    client = await app_client(token="secret")
    with pytest.raises(WSServerHandshakeError) as caught:
        await client.ws_connect("/terminal/ws")
    assert caught.value.status == 401
    async with client.ws_connect("/terminal/ws?token=secret") as socket:
        await socket.send_json({"type": "input", "data": "env; exit\r"})
        page = Page(socket)
        await page.until_closed()
        assert "secret" not in page.text


async def test_no_handshake(client: TestClient) -> None:
    """A plain GET is told what is missing."""
    async with client.get("/terminal/ws") as reply:
        assert reply.status == 400
        assert reply.headers["Sec-WebSocket-Version"] == "13"
        assert (await reply.json())["error"].startswith("Bad Request")
    async with client.get("/terminal/ws?encoding=x") as reply:
        assert reply.status == 400
    async with client.head("/terminal/ws") as reply:
        assert reply.status == 200


async def test_it_can_be_switched_off(app_client: AppClient) -> None:
    """Then there are no such routes."""
    client = await app_client(max_terminals=0)
    for path in ("/terminal", "/terminal/ws", "/terminal/sessions"):
        async with client.get(path) as reply:
            assert reply.status == 404


async def test_too_large_a_message(client: TestClient) -> None:
    """The connection is closed with the code for it; the session goes on."""
    async with open_page(client) as page:
        await page.type("x" * MAX_MESSAGE_BYTES)
        assert await page.until_closed() == 1009
    async with client.get("/terminal/sessions") as reply:
        assert len((await reply.json())["sessions"]) == 1


async def test_g31_the_daemon_says_good_bye(client: TestClient) -> None:
    """A page knows that it may try again."""
    async with open_page(client) as page:
        client.app[SHUTDOWN].begin()
        assert await page.until_closed() == 1001


async def test_what_is_typed_is_audited(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """But no password."""
    caplog.set_level("INFO", "sandbox_api.audit")
    async with open_page(client, sessionId="s") as page:
        await page.type("echo 'one  two'\r")
        await page.until("\none  two")
        await page.type("stty -echo; echo re''ady; read pass; stty echo; echo do''ne\r")
        await page.until("\nready")
        await page.type("geheim\r")
        await page.until("\ndone")
    async with asyncio.timeout(30):
        while client.app[TERMINALS].list()[0].clients:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    lines = [record.message for record in caplog.records if record.name == "sandbox_api.audit"]
    assert lines[0].startswith("type=terminal_connect")
    assert "session-id=s shell=/bin/sh" in lines[0]
    assert lines[1].endswith("""command="echo 'one  two'" session-id=s""")
    assert not any("geheim" in line for line in lines)
    assert lines[-1].startswith("type=terminal_disconnect")
