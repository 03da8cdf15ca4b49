"""`/network/ports` and its stream: what is open in the sandbox, and what changes."""

import asyncio
import json
import os
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from sandbox_api.api import port_stream
from sandbox_api.api.wire import PORT_WATCH, SHUTDOWN
from tests.api.processes.conftest import Json, ProcessApi
from tests.serving import free_port, serve

AppClient = Callable[..., Awaitable[TestClient]]
Listen = Callable[..., socket.socket]
NOBODY = 65534


@pytest.fixture
async def client(app_client: AppClient) -> TestClient:
    """The application."""
    return await app_client()


@pytest.fixture
def listen() -> Iterator[Listen]:
    """`listen("127.0.0.1")`: a TCP socket of this process."""
    with ExitStack() as stack:
        yield lambda host="127.0.0.1", port=0: stack.enter_context(
            socket.create_server((host, port))
        )


def port_of(one: socket.socket) -> int:
    """Where it listens."""
    return int(one.getsockname()[1])


async def listed(client: TestClient, port: int) -> list[Json]:
    """What the list has at a port."""
    async with client.get("/network/ports") as answer:
        assert answer.status == 200
        ports = (await answer.json())["ports"]
        assert ports == sorted(
            ports, key=lambda one: (one["protocol"], one["localPort"], one["localAddr"])
        )
        return [one for one in ports if (one["protocol"], one["localPort"]) == ("tcp", port)]


async def test_a_listener_is_listed(client: TestClient, listen: Listen) -> None:
    """Who has it and since when; loopback cannot be reached from outside."""
    port = port_of(listen())
    (one,) = await listed(client, port)
    assert one == {
        "protocol": "tcp",
        "localAddr": "127.0.0.1",
        "localPort": port,
        "pid": os.getpid(),
        "processName": one["processName"],
        "process": None,
        "since": one["since"],
        "sinceKind": "started",
        "reachable": False,
        "daemon": False,
    }
    assert one["since"].endswith("Z")
    everywhere = await listed(client, port_of(listen("0.0.0.0")))
    assert ("0.0.0.0", True) in [(one["localAddr"], one["reachable"]) for one in everywhere]


async def test_the_daemons_own_port_is_marked(client: TestClient) -> None:
    """So that nobody offers it to a user as an app."""
    assert [one["daemon"] for one in await listed(client, int(client.port or 0))] == [True]


@pytest.mark.parametrize(
    "command", ["exec {}", "{} & wait", "setsid -f {}; sleep 60", "{} & echo done"]
)
async def test_a_listener_of_a_process_of_ours_has_its_name(
    client: TestClient, command: str
) -> None:
    """Wherever in its tree, and also after the shell that started it has ended."""
    api, port = ProcessApi(client), free_port()
    process = await api.start(command.format(serve(port)), name="web/1")
    try:
        await api.until("/process/web%2F1", lambda got: "serving" in got["stdout"])
        (one,) = await listed(client, port)
        assert one["process"] == "web/1"
        assert one["processName"].startswith("python")
    finally:
        os.kill(one["pid"], 9)
        await api.delete(f"/process/{process['pid']}/kill") if "sleep" in command else None


async def test_head_of_the_list_and_of_the_stream(client: TestClient) -> None:
    """They are there; nothing is followed."""
    for path in ("/network/ports", "/network/ports/stream"):
        async with client.head(path) as answer:
            assert (answer.status, await answer.read()) == (200, b"")


class Follower:
    """A client of the stream."""

    def __init__(self, answer: ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> Any:  # noqa: ANN401 - JSON is any
        """The next event."""
        return json.loads(await asyncio.wait_for(self.answer.content.readuntil(b"\n"), 10))

    async def until_ready(self) -> list[Json]:
        """Everything up to `ready`, that included."""
        events = [await self.next()]
        while events[-1]["type"] != "ready":
            events.append(await self.next())
        return events

    async def at(self, port: int) -> Json:
        """The next event of a port."""
        while (event := await self.next()).get("localPort") != port:
            pass
        return dict(event)


@asynccontextmanager
async def following(client: TestClient, query: str = "") -> AsyncIterator[Follower]:
    """The stream."""
    async with client.get(f"/network/ports/stream{query}") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        yield Follower(answer)


async def test_what_opens_and_closes_is_told(client: TestClient, listen: Listen) -> None:
    """First what is open already, then what happens, each with the next number."""
    before = port_of(listen())
    async with following(client) as follower:
        *state, ready = await follower.until_ready()
        assert {one["type"] for one in state} == {"open"}
        assert before in {one["localPort"] for one in state}
        assert ready["number"] == state[-1]["number"]
        with listen() as one:
            port = port_of(one)
            opened = await follower.at(port)
        closed = await follower.at(port)
    assert (opened["type"], closed["type"]) == ("open", "close")
    assert opened["number"] > ready["number"]
    assert closed["number"] > opened["number"]
    assert opened["sinceKind"] == "opened"
    assert {**closed, **opened} == opened
    assert opened["pid"] == os.getpid()


async def test_a_client_that_comes_back_misses_nothing(client: TestClient, listen: Listen) -> None:
    """It names the last number that it has seen, and gets what came after."""
    async with following(client) as first:
        (*_, ready) = await first.until_ready()
        with listen() as one:
            port = port_of(one)
            opened = await first.at(port)
        closed = await first.at(port)
    async with following(client, f"?since={opened['number']}") as second:
        events = await second.until_ready()
        assert closed in events
        assert opened not in events
    async with following(client, f"?since={ready['number']}") as third:
        events = await third.until_ready()
        assert [e for e in events if e.get("localPort") == port] == [opened, closed]


@pytest.mark.parametrize("since", ["0", "17", "99999999999999999"])
async def test_a_gap_is_told(client: TestClient, since: str) -> None:
    """Numbers of an earlier daemon mean nothing here: what is open is told anew."""
    async with following(client, f"?since={since}") as follower:
        gap, *state, ready = await follower.until_ready()
        assert gap == {"type": "gap", "number": ready["number"]}
        assert client.port in {one["localPort"] for one in state}


@pytest.mark.parametrize("since", ["x", "1.5", "9" * 30])
async def test_what_is_no_number(client: TestClient, since: str) -> None:
    """400."""
    async with client.get("/network/ports/stream", params={"since": since}) as answer:
        assert answer.status == 400
        assert "invalid since" in (await answer.json())["error"]


async def test_g07_silence_is_filled(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing in between takes the stream for dead."""
    monkeypatch.setattr(port_stream, "SILENCE_S", 0.05)
    async with following(client) as follower:
        await follower.until_ready()
        kinds = [(await follower.next())["type"]]
        while kinds[-1] != "keepalive":
            kinds.append((await follower.next())["type"])
        assert set(kinds) <= {"open", "close", "keepalive"}


async def test_g07_the_stream_ends_cleanly_when_the_daemon_stops(client: TestClient) -> None:
    """With its final chunk."""
    async with following(client) as follower:
        await follower.until_ready()
        client.app[SHUTDOWN].begin()
        await asyncio.wait_for(follower.answer.content.read(), 10)  # fails without a final chunk
        assert follower.answer.content.at_eof()


async def test_g16_nobody_polls_when_nobody_watches(
    client: TestClient, eventually: Callable[..., Awaitable[object]]
) -> None:
    """One poller for all, gone with the last of them."""
    watch = client.app[PORT_WATCH]
    assert not watch.watched
    stream: AbstractAsyncContextManager[Follower] = following(client)
    async with following(client) as one:
        await one.until_ready()
        poller = watch._poller
        async with stream as other:
            await other.until_ready()
            assert watch._poller is poller
        assert watch.watched
    await eventually(lambda: not watch.watched)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_g29_the_workload_user_learns_no_stranger(
    app_client: AppClient, listen: Listen
) -> None:
    """That a port is open anybody can find out; whose it is only its own user."""
    client = await app_client(user=str(NOBODY), workdir="/", home="/")
    for user, own in ((NOBODY, True), (0, False)):
        with listen() as one:
            port, holder = port_of(one), await hold(one, user)
        found = await listed(client, port)
        assert len(found) == 1, found
        (told,) = found
        assert told["pid"] == (holder.pid if own else None)
        assert told["processName"] == ("cat" if own else "")
        await holder.communicate(b"")
    assert [one["daemon"] for one in await listed(client, int(client.port or 0))] == [True]


async def hold(one: socket.socket, user: int) -> Process:
    """A process that has a socket of ours too."""
    return await asyncio.create_subprocess_exec(
        "cat", stdin=-1, stdout=-1, pass_fds=[one.fileno()], user=user
    )
