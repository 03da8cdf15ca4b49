"""`/network`: which ports a process and its subtree hold."""

import asyncio
import os
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from tests.api.processes.conftest import Json, ProcessApi
from tests.serving import free_port, serve

OpenClient = Callable[..., Awaitable[TestClient]]

Hold = Callable[..., Awaitable[Process]]

NOBODY = 65534


@pytest.fixture
async def api(app_client: OpenClient) -> ProcessApi:
    """The application."""
    return ProcessApi(await app_client())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


@pytest.fixture
async def hold() -> AsyncIterator[Hold]:
    """`await hold(listener, user=65534)`: a process that has a socket of ours too."""
    async with AsyncExitStack() as stack:

        async def start(one: socket.socket, user: int | None = None) -> Process:
            process = await asyncio.create_subprocess_exec(
                "cat", stdin=-1, stdout=-1, pass_fds=[one.fileno()], user=user
            )
            stack.push_async_callback(process.communicate, b"")
            return process

        yield start


async def ports(api: ProcessApi, pid: object) -> list[Json]:
    """What is listed."""
    reply = await api.get(f"/network/process/{pid}/ports")
    assert reply["pid"] == int(str(pid))
    found: list[Json] = reply["ports"]
    return found


async def served(api: ProcessApi, command: str, count: int = 1, **request: str) -> Json:
    """Start a command and wait until its servers listen."""
    process = await api.start(command, 200, **request)
    await api.until(
        f"/process/{process['pid']}", lambda got: got["stdout"].count("serving") >= count
    )
    return process


async def test_a_server_is_listed(api: ProcessApi) -> None:
    """With all that the reference tells."""
    port = free_port()
    process = await served(api, "exec " + serve(port))
    (entry,) = await ports(api, process["pid"])
    assert entry == {
        "pid": int(process["pid"]),
        "protocol": "tcp",
        "localAddr": "0.0.0.0",
        "localPort": port,
        "remoteAddr": "",
        "remotePort": 0,
        "state": "LISTEN",
        "processName": entry["processName"],
    }
    assert entry["processName"].startswith("python")


async def test_the_subtree_is_listed(api: ProcessApi) -> None:
    """Each entry has the pid of who holds the socket; in the order of protocol and port."""
    one, two, three = sorted(free_port() for _ in range(3))
    command = f"{serve(two)} & {serve(one, kind='udp')} & setsid -f {serve(three)}; wait"
    process = await served(api, command, count=3)
    entries = await ports(api, process["pid"])
    shown = [(entry["protocol"], entry["localPort"], entry["state"]) for entry in entries]
    assert shown == [("tcp", two, "LISTEN"), ("tcp", three, "LISTEN"), ("udp", one, "UNCONN")]
    pids = {entry["pid"] for entry in entries}
    assert len(pids) == 3
    assert int(process["pid"]) not in pids
    for entry in entries:
        assert await ports(api, entry["pid"]) == [entry]


async def test_the_pid_of_the_first_run_means_the_current_one(
    api: ProcessApi, tmp_path: Path
) -> None:
    """A restart has another pid; clients know the first."""
    port = free_port()
    command = f"test -e again && exec {serve(port)}; : > again; exit 1"
    process = await api.start(
        command, workingDir=str(tmp_path), restartOnFailure=True, maxRestarts=1
    )
    await api.until(f"/process/{process['pid']}", lambda got: "serving" in got["stdout"])
    (entry,) = await ports(api, process["pid"])
    assert entry["localPort"] == port
    assert entry["pid"] != int(process["pid"])
    assert entry["pid"] == api.find(process["pid"]).child.pid


async def test_a_name_that_looks_like_a_pid_is_no_pid(api: ProcessApi) -> None:
    """The route goes by number."""
    await served(api, "exec " + serve(free_port()), name="4194305")
    assert await ports(api, 4194305) == []


async def test_any_process_of_the_sandbox_can_be_asked_for(
    api: ProcessApi, hold: Hold, listener: socket.socket
) -> None:
    """It need not be one of ours, whoever its parent is."""
    other = await hold(listener)
    (entry,) = await ports(api, other.pid)
    assert entry["localPort"] == listener.getsockname()[1]
    await other.communicate(b"")
    assert await ports(api, other.pid) == []


@pytest.mark.parametrize("pid", ["0", "-1", "-4711", "+4194305", "00004194305", "999999999999999"])
async def test_a_number_that_nobody_has(api: ProcessApi, pid: str) -> None:
    """200 and none: clients poll while a process comes and goes."""
    assert await ports(api, pid) == []


@pytest.mark.parametrize("pid", ["x", "1x", "1.0", "%20", "1%2F2", "٣", "9" * 30, "proc-1"])
async def test_what_is_no_number(api: ProcessApi, pid: str) -> None:
    """400, for HEAD too."""
    reply = await api.get(f"/network/process/{pid}/ports", 400)
    assert reply == {"error": "invalid PID"}
    async with api.client.head(f"/network/process/{pid}/ports") as response:
        assert response.status == 400


async def test_no_pid_at_all(api: ProcessApi) -> None:
    """The text of the reference."""
    reply = await api.get("/network/process//ports", 400)
    assert reply == {"error": "missing required path parameter: pid"}


async def test_head(api: ProcessApi) -> None:
    """It tells that the route exists, and runs nothing."""
    async with api.client.head("/network/process/1/ports") as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_g29_the_workload_user_sees_its_own(
    app_client: OpenClient, hold: Hold, listener: socket.socket
) -> None:
    """What its processes hold is listed; what the daemon's own user holds is not."""
    api = ProcessApi(await app_client(user=str(NOBODY), workdir="/", home="/"))
    own, other = await hold(listener, user=NOBODY), await hold(listener)
    (entry,) = await ports(api, own.pid)
    assert (entry["pid"], entry["localPort"]) == (own.pid, listener.getsockname()[1])
    assert await ports(api, other.pid) == []
    assert [entry["pid"] for entry in await ports(api, os.getpid())] == [own.pid]
