"""stdin over HTTP: bodies of any size, at the pace of the process."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from io import BytesIO

import pytest
from aiohttp import ClientResponse

from sandbox_api.core.processes.stdin import Stdin
from tests.api.processes.conftest import Json, OpenApi, ProcessApi

Eventually = Callable[..., Awaitable[object]]

MIB = 1 << 20


async def write(api: ProcessApi, name: str, data: object, status: int = 200) -> Json:
    """`POST /process/{name}/stdin`."""
    body = BytesIO(data) if isinstance(data, bytes) else data
    async with api.client.post(f"/process/{name}/stdin", data=body) as response:
        return await reply_of(response, status)


async def reply_of(response: ClientResponse, status: int) -> Json:
    """A JSON reply of the status that is expected."""
    assert response.status == status, await response.text()
    reply: Json = await response.json()
    return reply


def stdin_of(api: ProcessApi, name: str) -> Stdin:
    """The process's end, to shorten its patience."""
    stdin = api.find(name).stdin
    assert stdin is not None
    return stdin


async def test_write_and_close(api: ProcessApi) -> None:
    """Both are idempotent in their way: empty bodies and a second close are fine."""
    assert (await api.start("cat", name="c", stdin=True))["stdin"] is True
    for data in (b"one\n", b"", b"\xff\x00two"):
        assert await write(api, "c", data) == {"message": "Data written to stdin successfully"}
    for _ in range(2):
        closed = await api.delete("/process/c/stdin")
        assert closed == {"message": "Stdin closed successfully"}
    reply = await api.get("/process/c/wait")
    assert (reply["stdout"], reply["exitCode"]) == ("one\n\ufffd\x00two", 0)
    assert reply["stdin"] is False


async def test_megabytes(api: ProcessApi) -> None:
    """Larger than any limit on JSON, byte-exact, and only as fast as the process reads."""
    data = os.urandom(MIB) * 70
    process = await api.start("sleep 0.1; sha256sum; sleep 60", name="sum", stdin=True)
    await write(api, "sum", data)
    await api.delete("/process/sum/stdin")
    reply = await api.until("/process/sum", lambda got: got["stdout"])
    assert reply["stdout"].split()[0] == sha256(data).hexdigest()
    assert reply["pid"] == process["pid"]
    await api.delete("/process/sum/kill")


async def test_a_body_that_is_still_coming(api: ProcessApi) -> None:
    """An interactive client keeps one request open and sends a line at a time."""
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one\n"
        await answered.wait()
        yield b"two\n"

    await api.start("while read line; do echo got $line; done", name="i", stdin=True)
    writing = asyncio.create_task(write(api, "i", body()))
    await api.until("/process/i", lambda got: got["stdout"] == "got one\n")
    answered.set()
    await writing
    await api.until("/process/i", lambda got: got["stdout"] == "got one\ngot two\n")
    await api.delete("/process/i/stdin")
    assert (await api.get("/process/i/wait"))["status"] == "completed"


async def test_requests_at_the_same_time_do_not_mix(api: ProcessApi) -> None:
    """Each body is a whole, though it comes in many chunks."""
    bodies = [bytes([65 + number]) * (MIB // 2) for number in range(4)]
    await api.start("sleep 0.1; cat | tr -s A-D | fold -w 1", name="m", stdin=True)
    await asyncio.gather(*[write(api, "m", body) for body in bodies])
    await api.delete("/process/m/stdin")
    reply = await api.get("/process/m/wait")
    assert sorted(reply["stdout"].split()) == ["A", "B", "C", "D"]


async def test_a_client_that_leaves_frees_the_turn(api: ProcessApi) -> None:
    """What it has sent is read; the next one writes on."""
    arrived = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"begun "
        await arrived.wait()

    await api.start("head -n 1", name="l", stdin=True)
    leaving = asyncio.create_task(write(api, "l", body()))
    stdin = stdin_of(api, "l")
    async with asyncio.timeout(5):
        while not stdin._turn.locked():  # noqa: ASYNC110 - it is somebody else's lock
            await asyncio.sleep(0.001)
    leaving.cancel()
    await asyncio.wait([leaving])
    await write(api, "l", b"and done\n")
    assert (await api.get("/process/l/wait"))["stdout"].endswith("and done\n")


async def test_nobody_reads(api: ProcessApi) -> None:
    """503 after the time for that, with the count of what was taken; then it works on."""
    await api.start("exec sleep 60", name="n", stdin=True)
    stdin_of(api, "n")._stall_s = 0.1
    reply = await write(api, "n", b"x" * 2 * MIB, 503)
    assert reply == {
        "error": "the process has read nothing from its stdin for 0.1 seconds; try again",
        "written": 65536,
    }
    assert (await api.get("/process/n"))["stdin"] is True
    await api.delete("/process/n/stdin")
    reply = await write(api, "n", b"x", 409)
    assert reply["error"] == "process n has no open stdin: it was closed"


async def test_a_reply_comes_before_the_whole_body(api: ProcessApi) -> None:
    """A client that sends on and on learns that the process has closed its stdin."""

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000
            await asyncio.sleep(0)

    await api.start("head -c 5; exec 0< /dev/null; sleep 60", name="h", stdin=True)
    async with asyncio.timeout(10), api.client.post("/process/h/stdin", data=body()) as response:
        reply = await reply_of(response, 409)
    assert reply["error"] == "the process has closed its stdin"
    assert reply["written"] >= 5
    assert (await api.get("/process/h"))["stdin"] is False


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_what_has_no_stdin(api: ProcessApi, method: str) -> None:
    """404 for who is unknown, 409 with the reason for the rest."""
    plain = await api.run("true", name="plain")
    async with api.client.request(method, "/process/nope/stdin", data=b"x") as response:
        reply = await reply_of(response, 404)
        assert reply == {"error": "process with Identifier nope not found"}
    async with api.client.request(method, "/process/plain/stdin", data=b"x") as response:
        assert await reply_of(response, 409) == {
            "error": 'process plain has no open stdin: start it with "stdin": true',
            "pid": plain["pid"],
            "name": "plain",
        }


async def test_a_finished_process(api: ProcessApi, eventually: Eventually) -> None:
    """A write is a conflict, a close is fine; so it is while a restart is pending."""
    await api.run("true", name="over", stdin=True)
    reply = await write(api, "over", b"x", 409)
    assert reply["error"] == "process over has no open stdin: it is not running"
    await api.delete("/process/over/stdin")

    await api.start("exit 1", name="again", stdin=True, restartOnFailure=True, maxRestarts=-1)
    await eventually(lambda: api.find("again").restarting)
    reply = await write(api, "again", b"x", 409)
    assert reply["error"].endswith("has no open stdin: it waits for its restart, try again")
    await api.delete("/process/again/kill")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_limit_may_be_set(open_api: OpenApi, *, chunked: bool) -> None:
    """Then a larger body is a 413 that names the way around; without one there is none."""
    api = await open_api(max_stdin_bytes=10)
    await api.start("cat", name="c", stdin=True)
    await write(api, "c", b"0123456789")

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 11

    reply = await write(api, "c", body() if chunked else b"x" * 11, 413)
    assert "send it in several requests, or raise SANDBOX_MAX_STDIN_BYTES" in reply["error"]
    assert reply["written"] == 0
    await api.delete("/process/c/stdin")
    assert (await api.get("/process/c/wait"))["stdout"] == "0123456789"
