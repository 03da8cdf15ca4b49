"""`/network/process/{pid}/monitor`: a callback for each port that a process opens."""

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from sandbox_api.api import callbacks
from sandbox_api.api.wire import MONITORS, PORT_WATCH
from sandbox_api.core import monitors
from sandbox_api.core.processes.sockets import open_ports_of_process
from tests.api.processes.conftest import ProcessApi
from tests.serving import free_port, serve

AppClient = Callable[..., Awaitable[TestClient]]
Eventually = Callable[..., Awaitable[object]]


@pytest.fixture
async def client(app_client: AppClient) -> TestClient:
    """The application."""
    return await app_client()


class Program:
    """Opens and closes ports as it is told."""

    SOURCE = """
import socket, sys
held = {}
for line in sys.stdin:
    port = int(line)
    if port in held:
        held.pop(port).close()
    else:
        one = socket.create_server(("127.0.0.1", port))
        port = one.getsockname()[1]
        held[port] = one
    print(port, flush=True)
"""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.pid = process.pid

    async def turn(self, port: int = 0) -> int:
        """Open a port, 0 for any, or close one that is open; returns its number."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % port)
        return int(await asyncio.wait_for(self.process.stdout.readline(), 10))


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    """A process that is none of the daemon's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", Program.SOURCE, stdin=-1, stdout=-1
    )
    yield Program(process)
    await process.communicate(b"")


@pytest.fixture
async def receiver() -> AsyncIterator[SimpleNamespace]:
    """Takes callbacks at `url`: bodies are in `told`, `statuses` are answered first, then 200."""
    kept = SimpleNamespace(told=asyncio.Queue(), statuses=[], requests=[], abort=0)
    kept.wait = asyncio.Event()
    kept.wait.set()
    kept.came = asyncio.Condition()

    async def take(request: web.Request) -> web.Response:
        async with kept.came:
            kept.requests.append(request)
            kept.came.notify_all()
        if kept.abort:
            kept.abort -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, headers = kept.statuses.pop(0) if kept.statuses else (200, {})
        await kept.wait.wait()
        if status == 200:
            await kept.told.put(await request.json())
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    async with TestServer(app) as server:
        kept.url = str(server.make_url("/hook?secret=1"))
        yield kept
        kept.wait.set()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(monitors, "RETRY_PAUSES_S", (0.01, 0.01, 0.01))


async def monitor(client: TestClient, pid: object, url: str) -> None:
    """Begin."""
    path = f"/network/process/{pid}/monitor"
    async with client.post(path, json={"callback": url}) as answer:
        assert answer.status == 200
        assert await answer.json() == {"path": "", "message": "Port monitoring started"}


async def stop(client: TestClient, pid: object) -> None:
    """End."""
    async with client.delete(f"/network/process/{pid}/monitor") as answer:
        assert answer.status == 200
        assert await answer.json() == {"path": "", "message": "Port monitoring stopped"}


async def told(receiver: SimpleNamespace) -> dict[str, int]:
    """The next callback."""
    return dict(await asyncio.wait_for(receiver.told.get(), 10))


async def asked(receiver: SimpleNamespace, count: int = 1) -> None:
    """Wait until so many attempts were made."""
    async with asyncio.timeout(10):
        async with receiver.came:
            await receiver.came.wait_for(lambda: len(receiver.requests) >= count)


async def test_each_opening_is_told_once(
    client: TestClient, receiver: SimpleNamespace, program: Program
) -> None:
    """What is open already, what is opened, and what is opened again."""
    first = await program.turn()
    await monitor(client, program.pid, receiver.url)
    ports = [first]
    for _ in range(2):
        assert await told(receiver) == {"pid": program.pid, "port": ports[-1]}
        ports.append(await program.turn())
    assert (await told(receiver))["port"] == ports[-1]
    for port in ports:  # closed and opened again: another socket
        await program.turn(port)
        await program.turn(port)
        assert (await told(receiver))["port"] == port
    assert receiver.told.empty()
    (request, *_) = receiver.requests
    assert (request.method, request.rel_url.raw_path_qs) == ("POST", "/hook?secret=1")
    assert request.headers["Content-Type"] == "application/json"


async def test_nobody_takes_anothers_answer_away(
    client: TestClient, receiver: SimpleNamespace, program: Program
) -> None:
    """A list in between, and a second monitor of the same process, change nothing (17.10)."""
    await monitor(client, program.pid, receiver.url)
    port = await program.turn()
    for path in (f"/network/process/{program.pid}/ports", "/network/ports"):
        assert (await client.get(path)).status == 200
    assert (await told(receiver))["port"] == port
    await monitor(client, program.pid, receiver.url.replace("hook", "other"))
    assert (await told(receiver))["port"] == port
    assert len(client.app[MONITORS]) == 2


async def test_a_process_of_ours_with_its_subtree(
    client: TestClient, receiver: SimpleNamespace
) -> None:
    """Its own pid is told, whoever in it listens; nobody else's ports are."""
    api, port, other = ProcessApi(client), free_port(), free_port()
    process = await api.start("sleep 60 & " + serve(port))
    stranger = await api.start("exec " + serve(other))
    await monitor(client, process["pid"], receiver.url)
    assert await told(receiver) == {"pid": int(process["pid"]), "port": port}
    await api.until(f"/process/{stranger['pid']}", lambda got: "serving" in got["stdout"])
    assert receiver.told.empty()
    for one in (process, stranger):
        await api.delete(f"/process/{one['pid']}/kill")


async def test_a_monitor_goes_with_its_process(
    client: TestClient, receiver: SimpleNamespace, program: Program, eventually: Eventually
) -> None:
    """One of ours, any other, one that nobody has; what is left to be told is told."""
    api = ProcessApi(client)
    ours = await api.start("sleep 60")
    for pid in (ours["pid"], program.pid, 4194305, -1):
        await monitor(client, pid, receiver.url)
    await eventually(lambda: len(client.app[MONITORS]) == 2)
    await program.process.communicate(b"")
    await api.delete(f"/process/{ours['pid']}/kill")
    await eventually(lambda: len(client.app[MONITORS]) == 0)
    assert not client.app[PORT_WATCH].watched


async def test_stop_ends_all_of_a_process(
    client: TestClient, receiver: SimpleNamespace, program: Program, eventually: Eventually
) -> None:
    """And of no other; a second stop is fine."""
    for url in (receiver.url, receiver.url + "&2"):
        await monitor(client, program.pid, url)
    await stop(client, program.pid)
    await stop(client, program.pid)
    assert len(client.app[MONITORS]) == 0
    await eventually(lambda: not client.app[PORT_WATCH].watched)


@pytest.mark.parametrize("status", [500, 503, 599])
async def test_an_attempt_that_fails_is_made_again(
    client: TestClient, receiver: SimpleNamespace, program: Program, status: int
) -> None:
    """On 5xx, until it is taken."""
    receiver.statuses = [(status, {})] * 3
    port = await program.turn()
    await monitor(client, program.pid, receiver.url)
    assert (await told(receiver))["port"] == port
    assert len(receiver.requests) == 4


async def test_a_receiver_that_is_not_there_yet(
    client: TestClient, receiver: SimpleNamespace, program: Program
) -> None:
    """On errors of the connection too, a limited number of times; then comes the next port."""
    receiver.abort = 1 + len(monitors.RETRY_PAUSES_S)
    await program.turn()
    await monitor(client, program.pid, receiver.url)
    await asked(receiver, receiver.abort)
    port = await program.turn()
    assert (await told(receiver))["port"] == port


async def test_a_refusal_is_final(
    client: TestClient, receiver: SimpleNamespace, program: Program
) -> None:
    """4xx is not tried again."""
    receiver.statuses = [(404, {})]
    await program.turn()
    await monitor(client, program.pid, receiver.url)
    await asked(receiver)
    port = await program.turn()
    assert (await told(receiver))["port"] == port
    assert len(receiver.requests) == 2


async def test_one_attempt_at_a_time(
    client: TestClient, receiver: SimpleNamespace, program: Program
) -> None:
    """A receiver that takes its time gets one port after the other, in order."""
    receiver.wait.clear()
    ports = sorted([await program.turn() for _ in range(3)])
    await monitor(client, program.pid, receiver.url)
    await asked(receiver)
    await client.app[PORT_WATCH].look()
    assert len(receiver.requests) == 1
    receiver.wait.set()
    assert [(await told(receiver))["port"] for _ in ports] == ports


async def test_an_attempt_has_a_deadline(
    client: TestClient,
    receiver: SimpleNamespace,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receiver that takes a connection and says nothing is asked again."""
    monkeypatch.setattr(callbacks, "ATTEMPT_TIMEOUT_S", 0.1)
    receiver.wait.clear()
    await program.turn()
    await monitor(client, program.pid, receiver.url)
    await asked(receiver, 2)
    assert len(receiver.requests) >= 2


async def test_redirects_stay_on_the_server(
    client: TestClient, receiver: SimpleNamespace, program: Program
) -> None:
    """A callback names who is told: nobody else is (17.11)."""
    receiver.statuses = [(307, {"Location": "/moved"})]
    port = await program.turn()
    await monitor(client, program.pid, receiver.url)
    assert (await told(receiver))["port"] == port
    assert receiver.requests[1].path == "/moved"
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        elsewhere = f"http://127.0.0.1:{other.getsockname()[1]}/"
        receiver.statuses = [(308, {"Location": elsewhere})]
        await program.turn()
        await asked(receiver, 3)
        later = await program.turn()
        assert (await told(receiver))["port"] == later
        with pytest.raises(BlockingIOError):
            other.accept()


async def test_g28_a_look_that_fails_is_made_again(
    client: TestClient,
    receiver: SimpleNamespace,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shortage that passes loses no port."""
    monkeypatch.setattr(monitors, "ALIVE_CHECK_S", 0.05)
    look, failures = open_ports_of_process, [OSError(24, "too many open files")] * 2

    def fail_first(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(monitors, "open_ports_of_process", fail_first)
    port = await program.turn()
    await monitor(client, program.pid, receiver.url)
    assert (await told(receiver))["port"] == port


async def test_what_waits_to_be_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that opens thousands of ports costs no memory; the rest is left out."""
    monkeypatch.setattr(monitors, "MAX_QUEUED", 3)
    one = monitors._Monitor(1, "http://x/", None)
    one.see({port: frozenset({port}) for port in range(10)})
    one.see({port: frozenset({port}) for port in range(20)})
    one.close()
    assert [await one.next() for _ in range(4)] == [0, 1, 2, None]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "invalid request body: EOF"),
        ("{", "invalid request body: unexpected EOF"),
        ("{}", "Callback"),
        ('{"callback":5}', "cannot unmarshal number"),
        ('{"callback":""}', "Callback"),
        ('{"callback":"localhost:1/x"}', "an http or https URL is expected"),
        ('{"callback":"ftp://x/"}', "an http or https URL is expected"),
        ('{"callback":"file:///etc/passwd"}', "an http or https URL is expected"),
        ('{"callback":"http://"}', "an http or https URL is expected"),
        ('{"callback":"http://x:99999/"}', "an http or https URL is expected"),
        ('{"callback":"http://[::1/"}', "an http or https URL is expected"),
        ('{"callback":"http://x/' + "y" * 5000 + '"}', "an http or https URL is expected"),
    ],
)
async def test_what_cannot_be_called(client: TestClient, body: str, text: str) -> None:
    """400 before anything is monitored."""
    async with client.post("/network/process/1/monitor", data=body) as answer:
        assert answer.status == 400
        assert text in (await answer.json())["error"]
    assert len(client.app[MONITORS]) == 0


async def test_what_is_no_pid(client: TestClient) -> None:
    """400 for both methods."""
    path = "/network/process/x/monitor"
    for answer in (
        await client.post(path, json={"callback": "http://x/"}),
        await client.delete(path),
    ):
        assert (answer.status, await answer.json()) == (400, {"error": "invalid PID"})


async def test_monitors_are_bounded(
    client: TestClient,
    receiver: SimpleNamespace,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """503 says which limit; one that is there already takes no new place."""
    monkeypatch.setattr(monitors, "MAX_MONITORS", 2)
    for url in (receiver.url, receiver.url + "&2", receiver.url):
        await monitor(client, program.pid, url)
    body = {"callback": receiver.url + "&3"}
    async with client.post(f"/network/process/{program.pid}/monitor", json=body) as answer:
        assert answer.status == 503
        assert "2 monitors run already" in (await answer.json())["error"]
    await stop(client, program.pid)
    await monitor(client, program.pid, receiver.url + "&3")


async def test_nothing_hangs_however_they_meet(
    client: TestClient, receiver: SimpleNamespace
) -> None:
    """Lists, monitors that come and go and waits for ports, of a process with children (17.7)."""
    api = ProcessApi(client)
    crowd = await api.start("for i in $(seq 40); do sleep 60 & done; wait")
    ports = [free_port() for _ in range(3)]

    async def waits(port: int) -> None:
        process = await api.start("exec " + serve(port), waitForPorts=[port])
        await api.delete(f"/process/{process['pid']}/kill")

    async def lists() -> None:
        for _ in range(10):
            await api.get(f"/network/process/{crowd['pid']}/ports")

    async def monitors_on_and_off() -> None:
        for _ in range(10):
            await monitor(client, crowd["pid"], receiver.url)
            await stop(client, crowd["pid"])

    async with asyncio.timeout(60):
        await asyncio.gather(
            *map(waits, ports), *(lists() for _ in range(3)), monitors_on_and_off()
        )
    await api.delete(f"/process/{crowd['pid']}/kill")
    assert (await client.get("/network/ports")).status == 200
