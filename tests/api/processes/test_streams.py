"""Live output over HTTP: lines of a log stream, and NDJSON events with a result."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientResponse, ClientSession, TCPConnector

from sandbox_api.api.processes import streams
from tests.api.processes.conftest import Gate, Json, ProcessApi

Eventually = Callable[..., Awaitable[object]]

EVENTS = {"Accept": "application/json, text/event-stream"}


async def read_line(response: ClientResponse) -> bytes:
    """The next line, within a deadline."""
    async with asyncio.timeout(5):
        return await response.content.readline()


async def events(response: ClientResponse) -> list[Json]:
    """All events to the end of the stream."""
    async with asyncio.timeout(10):
        return [json.loads(line) async for line in response.content]


async def replay(api: ProcessApi, name: str) -> bytes:
    """The log stream of a process, to its end."""
    async with asyncio.timeout(20), api.client.get(f"/process/{name}/logs/stream") as response:
        assert response.status == 200
        return await response.read()


async def test_g07_headers_come_at_once(api: ProcessApi) -> None:
    """Before any output, and as clients and proxies need them."""
    await api.start("exec sleep 60", name="quiet")
    async with asyncio.timeout(2), api.client.get("/process/quiet/logs/stream") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Transfer-Encoding"] == "chunked"
    await api.delete("/process/quiet/kill")


async def test_g07_keepalive_comes_after_silence_only(
    api: ProcessApi, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of its own that no prefix has, again and again; then the output and a clean end."""
    assert streams.SILENCE_S == 4.0  # the official synchronous client gives up after 5
    monkeypatch.setattr(streams, "SILENCE_S", 0.05)
    await api.start(f"echo first; cat {gate.path}; echo last", name="k")
    async with api.client.get("/process/k/logs/stream") as response:
        assert await read_line(response) == b"stdout:first\n"
        assert await read_line(response) == b"[keepalive]\n"
        assert await read_line(response) == b"[keepalive]\n"
        await gate.open()
        rest = [line async for line in response.content]
    assert rest[-1] == b"stdout:last\n"
    assert set(rest[:-1]) <= {b"[keepalive]\n"}
    assert await replay(api, "k") == b"stdout:first\nstdout:last\n"


async def test_lines_come_live_and_end_with_the_process(api: ProcessApi, gate: Gate) -> None:
    """A line is there while its program still runs; the stream ends after the last one."""
    await api.start(f"echo one; echo err >&2; cat {gate.path}; exit 3", name="l")
    async with api.client.get("/process/l/logs/stream") as response:
        first = {await read_line(response), await read_line(response)}
        assert first == {b"stdout:one\n", b"stderr:err\n"}
        await gate.open(b"two\nunfinished")
        assert await response.read() == b"stdout:two\nstdout:unfinished\n"
    assert (await api.get("/process/l"))["exitCode"] == 3


async def test_g03_characters_and_long_lines_stay_whole(api: ProcessApi, gate: Gate) -> None:
    """A character in two writes is one; a line of 3 MB comes as one; an open line at the end."""
    long = "head -c 3000000 /dev/zero | tr '\\0' z"
    command = f"printf '\\342\\202'; cat {gate.path}; {long}; printf '\\nend\\303\\251'"
    await api.start(command, name="u")
    async with api.client.get("/process/u/logs/stream") as response:
        await gate.open(b"\xac\n")
        lines = (await response.read()).split(b"\n")
    assert lines == [
        b"stdout:\xe2\x82\xac",
        b"stdout:" + b"z" * 3_000_000,
        b"stdout:end\xc3\xa9",
        b"",
    ]


async def test_g04_two_hundred_followers_get_a_line_soon(api: ProcessApi, gate: Gate) -> None:
    """Each of 200 live readers has the line long before any polling would have brought it."""
    await api.start(f"cat {gate.path}", name="f")
    path = api.client.make_url("/process/f/logs/stream")
    async with (
        asyncio.timeout(20),
        ClientSession(connector=TCPConnector(limit=0)) as session,
    ):
        responses = await asyncio.gather(*[session.get(path) for _ in range(200)])
        begin = time.monotonic()
        await gate.open(b"now\n")
        lines = await asyncio.gather(*[read_line(response) for response in responses])
        assert time.monotonic() - begin < 2
        assert set(lines) == {b"stdout:now\n"}
        assert {await response.read() for response in responses} == {b""}


async def test_g02_live_is_a_prefix_of_every_replay(api: ProcessApi, gate: Gate) -> None:
    """What two live readers had at any time, a later replay begins with, byte for byte."""
    loop = "for n in 1 2 3 4 5 6 7 8 9; do printf a$n; echo b$n >&2; echo c$n; done"
    command = f"{loop}; cat {gate.path}; printf end"
    await api.start(command, name="p")
    live = b""
    async with api.client.get("/process/p/logs/stream") as response:
        while live.count(b"\n") < 18:
            live += await read_line(response)
        async with api.client.get("/process/p/logs/stream") as second:
            other = b"".join([await read_line(second) for _ in range(18)])
        await gate.open()
        whole = live + await response.read()
    assert other == live
    assert await replay(api, "p") == whole
    assert whole.endswith(b"\nstdout:end\n")


async def test_a_reader_that_leaves_changes_nothing(
    api: ProcessApi, gate: Gate, eventually: Eventually
) -> None:
    """The process goes on, others read on, and nothing of the reader stays."""
    reply = await api.start(f"echo one; cat {gate.path}", name="r")
    output = api.find(reply["pid"]).output
    async with api.client.get("/process/r/logs/stream") as response:
        assert await read_line(response) == b"stdout:one\n"
        response.close()
    await eventually(lambda: not output._waiting)
    await gate.open(b"two\n")
    assert await replay(api, "r") == b"stdout:one\nstdout:two\n"


async def test_late_output_is_in_later_streams(api: ProcessApi, gate: Gate) -> None:
    """What a background child writes after the end follows what the live reader saw (Q22)."""
    reply = await api.run(f"(cat {gate.path}) & printf main", name="b")
    assert reply["stdout"] == "main"
    before = await replay(api, "b")
    assert before == b"stdout:main\n"
    await gate.open(b"late\n")
    await api.until("/process/b/logs", lambda logs: "late" in logs["logs"])
    assert await replay(api, "b") == before + b"stdout:late\n"


async def test_events_end_with_the_result(api: ProcessApi) -> None:
    """The recorded example E11: raw output, then the process as a JSON string."""
    command = "echo hi; sleep 0.05; echo er >&2; exit 3"
    request = {"command": command, "name": "ps1"}
    async with api.client.post("/process", json=request, headers=EVENTS) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/x-ndjson"
        assert response.headers["Cache-Control"] == "no-cache"
        *output, result = await events(response)
    assert output == [{"type": "stdout", "data": "hi\n"}, {"type": "stderr", "data": "er\n"}]
    assert result["type"] == "result"
    reply = json.loads(result["data"])
    assert (reply["status"], reply["exitCode"], reply["stdout"]) == ("failed", 3, "hi\n")
    assert reply == await api.get("/process/ps1")


async def test_events_without_output(api: ProcessApi) -> None:
    """Only the result: no event is empty."""
    async with api.client.post("/process", json={"command": "true"}, headers=EVENTS) as response:
        (result,) = await events(response)
    assert result["type"] == "result"


async def test_events_do_not_wait_for_newlines(
    api: ProcessApi, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt is there before its answer; silence brings keepalive events, and no text of ours."""
    monkeypatch.setattr(streams, "SILENCE_S", 0.05)
    request = {"command": f"printf 'name? '; cat {gate.path}"}
    async with api.client.post("/process", json=request, headers=EVENTS) as response:
        assert json.loads(await read_line(response)) == {"type": "stdout", "data": "name? "}
        assert json.loads(await read_line(response)) == {"type": "keepalive"}
        await gate.open(b"me")
        rest = await events(response)
    assert [event for event in rest if event["type"] == "stdout"] == [
        {"type": "stdout", "data": "me"}
    ]
    assert rest[-1]["type"] == "result"


async def test_a_failed_start_is_an_event(api: ProcessApi) -> None:
    """The recorded example E13: the status is 200, the only event is the error."""
    request = {"command": "echo hi", "workingDir": "/nope"}
    async with api.client.post("/process", json=request, headers=EVENTS) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        (error,) = await events(response)
    text = "failed to start process: could not execute command 'echo hi' because folder"
    assert error == {"type": "error", "data": f"{text} '/nope' does not exist"}


@pytest.mark.parametrize(
    "request_", [{"command": ""}, {"command": "true", "name": "taken"}, {"command": "x", "env": 1}]
)
async def test_a_refused_request_is_no_stream(api: ProcessApi, request_: Json) -> None:
    """400 as plain JSON, whatever was accepted."""
    await api.start("exec sleep 60", name="taken")
    async with api.client.post("/process", json=request_, headers=EVENTS) as response:
        assert (response.status, response.content_type) == (400, "application/json")
        assert "error" in await response.json()
    await api.delete("/process/taken/kill")


async def test_events_go_on_over_restarts(api: ProcessApi) -> None:
    """One result, after the last run; each run's output once (Q8)."""
    request = {"command": "echo run; exit 1", "restartOnFailure": True, "maxRestarts": 1}
    async with api.client.post("/process", json=request, headers=EVENTS) as response:
        *output, result = await events(response)
    text = "".join(event["data"] for event in output if event["type"] == "stdout")
    notice = "\n[Process failed with exit code 1. Attempting restart 1/1...]\n"
    assert text == f"run\n{notice}run\n"
    assert json.loads(result["data"])["restartCount"] == 1


async def test_a_stream_of_a_killed_process_ends(api: ProcessApi) -> None:
    """Both kinds of stream end when somebody else kills the process."""
    request = {"command": "echo up; exec sleep 60", "name": "d"}
    async with api.client.post("/process", json=request, headers=EVENTS) as response:
        await read_line(response)
        async with api.client.get("/process/d/logs/stream") as lines:
            await api.delete("/process/d/kill")
            assert await lines.read() == b"stdout:up\n"
        (result,) = await events(response)
    assert json.loads(result["data"])["status"] == "killed"
