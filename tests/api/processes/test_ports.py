"""`waitForPorts` over HTTP: when it answers, and what it says when it cannot."""

import asyncio
import json
import time

import pytest

from tests.api.processes.conftest import Json, ProcessApi
from tests.serving import free_port, serve


async def test_it_answers_when_the_port_is_open(api: ProcessApi) -> None:
    """The process still runs, and what it has said is there."""
    port = free_port()
    reply = await api.start("exec " + serve(port), name="web", waitForPorts=[port], timeout=20)
    assert (reply["status"], reply["completedAt"]) == ("running", "")
    assert reply["stderr"] == ""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    assert reader is not None
    await api.until("/process/web", lambda got: got["stdout"] == "serving\n")


async def test_g16_a_time_out_tells_why(api: ProcessApi) -> None:
    """The reference's text first, then what is wrong and who it is; the process goes on."""
    port, other = sorted((free_port(), free_port()))
    began = time.monotonic()
    reply = await api.start(
        serve(port, address="127.0.0.1"), 422, name="web", waitForPorts=[port, other], timeout=1
    )
    assert 0.9 < time.monotonic() - began < 5
    process = await api.get("/process/web")
    assert reply == {
        "error": "process timed out waiting for ports after 1 seconds: "
        f"port {port} listens on 127.0.0.1 only: bind it to 0.0.0.0 or ::; "
        f"nothing of the process listens on port {other}",
        "pid": process["pid"],
        "name": "web",
    }
    assert process["status"] == "running"


async def test_g16_an_early_exit_is_told_at_once(api: ProcessApi) -> None:
    """Without any deadline."""
    reply = await api.start("echo broken >&2; exit 3", 422, name="web", waitForPorts=[free_port()])
    assert reply["error"].startswith("process ended with exit code 3 before it listened on port ")
    assert reply["name"] == "web"
    process = await api.get("/process/web")
    assert (process["status"], process["stderr"]) == ("failed", "broken\n")


async def test_ports_then_completion_under_one_deadline(api: ProcessApi) -> None:
    """Ready in time, but not ended: that is the other error, at the same moment."""
    port = free_port()
    began = time.monotonic()
    reply = await api.run("sleep 0.4; exec " + serve(port), 422, waitForPorts=[port], timeout=3)
    assert reply["error"] == "process timed out after 3 seconds"
    assert 2.9 < time.monotonic() - began < 3 + 2.5  # not 3 s for each

    port = free_port()
    command = f"timeout 3 {serve(port)}; echo over"
    reply = await api.run(command, waitForPorts=[port], timeout=20)
    assert (reply["status"], reply["stdout"]) == ("completed", "serving\nover\n")


async def events(api: ProcessApi, command: str, **request: object) -> list[Json]:
    """The whole NDJSON stream of a start."""
    headers = {"Accept": "text/event-stream"}
    body = {"command": command, **request}
    async with api.client.post("/process", json=body, headers=headers) as response:
        assert response.status == 200
        return [json.loads(line) async for line in response.content]


async def test_events_wait_for_ports_too(api: ProcessApi) -> None:
    """Then all output comes, the early one as well, and the result."""
    port = free_port()
    command = f"echo early; timeout 3 {serve(port)}; exit 4"
    *output, result = await events(api, command, waitForPorts=[port], timeout=20)
    assert "".join(event["data"] for event in output) == "early\nserving\n"
    assert json.loads(result["data"])["exitCode"] == 4


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("exit 3", "process ended with exit code 3 before it listened on port "),
        ("exec sleep 60", "process timed out waiting for ports after 1 seconds: nothing of "),
    ],
)
async def test_what_goes_wrong_is_the_last_event(api: ProcessApi, command: str, text: str) -> None:
    """The status was sent long before."""
    (event,) = await events(api, command, waitForPorts=[free_port()], timeout=1)
    assert event["type"] == "error"
    assert event["data"].startswith(text)


async def test_ports_that_cannot_be(api: ProcessApi) -> None:
    """Never ready, twice the same or not: no error of their own, as the reference has it."""
    reply = await api.start("exit 0", 422, waitForPorts=[0, -1, 70000, 70000, 2**62])
    assert reply["error"].endswith(
        f"before it listened on port -1, 0, 70000, {2**62}; its output tells why"
    )
    assert (await api.start("true", waitForPorts=[]))["logs"] is None


@pytest.mark.parametrize("value", ["0", "119", "120", "1e9", "0.5", "-0", ""])
async def test_wait_takes_any_time(api: ProcessApi, value: str) -> None:
    """Of one that has ended it answers at once; more than 119 s is 119."""
    process = await api.run("exit 3")
    reply = await api.get(f"/process/{process['pid']}/wait?timeout={value}")
    assert reply == {**process, **reply}
    assert reply["exitCode"] == 3


@pytest.mark.parametrize("value", ["-1", "-0.1", "x", "nan", "inf", "-inf", "1s", "%00", "1,5"])
async def test_wait_refuses_what_is_no_time(api: ProcessApi, value: str) -> None:
    """400 that names the value; also for a process that has ended."""
    await api.run("true", name="over")
    reply = await api.get(f"/process/over/wait?timeout={value}", 400)
    assert reply["error"].startswith("invalid timeout: ")
    assert "must be a number of seconds" in reply["error"]


async def test_wait_for_an_unknown_process(api: ProcessApi) -> None:
    """404 in JSON: a plain one would tell SDKs that there is no such route."""
    assert await api.get("/process/nope/wait", 404) == {"error": "process not found"}
    async with api.client.post("/process/nope/wait") as response:
        assert (response.status, await response.text()) == (404, "404 page not found")


async def test_wait_goes_over_restarts(api: ProcessApi) -> None:
    """The end of one run is not the end."""
    process = await api.start("exit 1", restartOnFailure=True, maxRestarts=1)
    reply = await api.get(f"/process/{process['pid']}/wait?timeout=30")
    assert (reply["status"], reply["restartCount"]) == ("failed", 1)
