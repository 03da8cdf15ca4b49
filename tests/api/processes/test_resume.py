"""Reading output over HTTP from where one was: after a cut, page by page, the last of it."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from aiohttp import ClientResponse, ClientSession

from sandbox_api.api.processes import streams
from tests.api.processes.conftest import Gate, Json, OpenApi, ProcessApi

StartDaemon = Callable[..., SimpleNamespace]

NUMBERS = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo o$i; echo e$i >&2; done"
EVENTS = {"Accept": "text/event-stream"}


async def events(response: ClientResponse) -> list[Json]:
    """All events to the end of the stream."""
    async with asyncio.timeout(20):
        return [json.loads(line) async for line in response.content]


async def get_events(api: ProcessApi, query: str) -> list[Json]:
    """A log stream as events, to its end."""
    async with api.client.get(f"/process/p/logs/stream?format=ndjson&{query}") as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        return await events(response)


async def get_lines(api: ProcessApi, query: str) -> bytes:
    """A log stream as text, to its end."""
    async with asyncio.timeout(20), api.client.get(f"/process/p/logs/stream?{query}") as response:
        assert (response.status, response.content_type) == (200, "text/plain")
        return await response.read()


def joined(events: list[Json], stream: str) -> str:
    """The text of one stream."""
    return "".join(event["data"] for event in events if event["type"] == stream)


def offsets(event: Json) -> str:
    """The query that resumes after an event."""
    return f"stdoutOffset={event['stdoutOffset']}&stderrOffset={event['stderrOffset']}"


class CutReader:
    """A client of a daemon whose connections break again and again."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self.got: list[Json] = []
        self.resume = "stdoutOffset=0&stderrOffset=0"

    async def read(self, url: str, most_events: int) -> None:
        """Take some events from the stream, and drop the connection."""
        async with self._session.get(f"{url}&{self.resume}") as response:
            assert response.status == 200, await response.text()
            while most_events > 0 and not self.done:
                line = await response.content.readline()
                if not line.endswith(b"\n"):  # the other side has dropped it
                    break
                most_events -= 1
                self._take(json.loads(line))
            response.close()

    def _take(self, event: Json) -> None:
        self.got.append(event)
        if event["type"] != "keepalive":
            self.resume = offsets(event)

    @property
    def done(self) -> bool:
        """Whether the end was told."""
        return bool(self.got) and self.got[-1]["type"] == "end"


async def test_g06_a_reader_that_is_cut_off_again_and_again_misses_nothing(
    start_daemon: StartDaemon,
) -> None:
    """A daemon and real connections, dropped in the middle: every number once, in its order."""
    base = f"http://127.0.0.1:{start_daemon().port}/process"
    async with asyncio.timeout(30), ClientSession() as session:
        async with session.post(base, json={"command": NUMBERS, "name": "n"}) as response:
            assert response.status == 200
        reader = CutReader(session)
        for most in range(1, 10_000):
            await reader.read(f"{base}/n/logs/stream?format=ndjson", 1 + most // 20)
            if reader.done:
                break
    assert joined(reader.got, "stdout").split() == [f"o{n}" for n in range(1, 3001)]
    assert joined(reader.got, "stderr").split() == [f"e{n}" for n in range(1, 3001)]
    assert not any(event["type"] == "gap" for event in reader.got)


async def test_g06_offsets_hold_when_the_daemon_was_killed(start_daemon: StartDaemon) -> None:
    """The connection breaks with the daemon; the next daemon goes on at the byte."""
    loop = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; done"
    command = f"{loop}; while [ ! -e go ]; do sleep 0.02; done; echo last"
    daemon = start_daemon()
    async with asyncio.timeout(30), ClientSession() as session:
        reader = CutReader(session)
        base = f"http://127.0.0.1:{daemon.port}/process"
        async with session.post(base, json={"command": command, "name": "n"}) as response:
            assert response.status == 200
        while len(joined(reader.got, "stdout").split()) < 2000:
            await reader.read(f"{base}/n/logs/stream?format=ndjson", 1)
        daemon.process.kill()
        daemon.process.wait()
        second = start_daemon()
        base = f"http://127.0.0.1:{second.port}/process"
        (second.path.parent / "go").touch()
        while not reader.done:
            await reader.read(f"{base}/n/logs/stream?format=ndjson", 1)
    assert joined(reader.got, "stdout").split() == [*map(str, range(1, 2001)), "last"]


async def test_events_of_a_log_stream(api: ProcessApi, gate: Gate) -> None:
    """Each says where to resume after it, and when it came; the last one how the process ended."""
    await api.start(f"printf 'a\\303\\251'; cat {gate.path}; echo err >&2; exit 3", name="p")
    url = "/process/p/logs/stream"
    async with api.client.get(url, headers={"Accept": "application/x-ndjson"}) as response:
        first = json.loads(await response.content.readline())
        await gate.open(b"b")
        *rest, end = await events(response)
    time = first.pop("time")
    assert first == {"type": "stdout", "data": "aé", "stdoutOffset": 3, "stderrOffset": 0}
    assert time.endswith("Z")
    assert time[:4] >= "2024"
    assert [event["data"] for event in rest] == ["b", "err\n"]
    assert end == {
        "type": "end",
        "status": "failed",
        "exitCode": 3,
        "signal": None,
        "exitKnown": True,
        "stdoutOffset": 4,
        "stderrOffset": 4,
    }
    assert (await get_events(api, offsets(end))) == [end]
    assert joined(await get_events(api, offsets(first)), "stdout") == "b"


async def test_silence_brings_keepalive_events(
    api: ProcessApi, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object as all lines are."""
    monkeypatch.setattr(streams, "SILENCE_S", 0.05)
    await api.start(f"cat {gate.path}", name="p")
    async with api.client.get("/process/p/logs/stream?format=ndjson") as response:
        assert json.loads(await response.content.readline()) == {"type": "keepalive"}
        await gate.open()
        assert (await events(response))[-1]["type"] == "end"


async def test_text_resumes_inside_of_a_line(api: ProcessApi) -> None:
    """The first line begins at the byte that was asked for; each stream goes on at its own."""
    await api.run("echo hello; sleep 0.05; echo oops >&2", name="p")
    assert await get_lines(api, "stdoutOffset=2") == b"stdout:llo\nstderr:oops\n"
    assert await get_lines(api, "stdoutOffset=6&stderrOffset=1") == b"stderr:ops\n"
    assert await get_lines(api, "stdoutOffset=6&stderrOffset=5") == b""


async def test_text_is_asked_for_by_format(api: ProcessApi) -> None:
    """`format` counts more than `Accept`, and other types mean nothing: clients send them."""
    await api.run("echo hi", name="p")
    url = "/process/p/logs/stream"
    for query, accept in (
        ("", "*/*"),
        ("", "text/event-stream"),
        ("?format=text", "application/x-ndjson"),
    ):
        async with api.client.get(url + query, headers={"Accept": accept}) as response:
            assert await response.read() == b"stdout:hi\n"


async def test_last_lines_and_times_of_a_stream(api: ProcessApi, gate: Gate) -> None:
    """`tail` and `since` choose the begin; what comes later follows."""
    await api.start(f"echo one; echo two; cat {gate.path}; echo three", name="p")
    await api.until("/process/p/logs", lambda logs: "two" in logs["logs"])
    async with (
        api.client.get("/process/p/logs/stream?tail=1") as tail,
        api.client.get("/process/p/logs/stream?tail=0") as new,
        api.client.get("/process/p/logs/stream?since=1h") as hour,
        api.client.get("/process/p/logs/stream?since=2999-01-01T00:00:00%2B02:00") as future,
    ):
        await gate.open()
        assert await tail.read() == b"stdout:two\nstdout:three\n"
        assert await new.read() == b"stdout:three\n"
        assert await hour.read() == b"stdout:one\nstdout:two\nstdout:three\n"
        assert await future.read() == b"stdout:three\n"


@pytest.mark.parametrize(
    ("since", "there"),
    [
        ("1970-01-01T00:00:00Z", True),
        ("2020-01-01T00:00:00.123456789+02:00", True),  # the plus arrives as a space
        ("2999-01-01 00:00:00Z", False),
        ("1700000000.5", True),
        ("99999999999", False),
        ("1h30m", True),
        ("999999999d", True),
    ],
)
async def test_times_in_their_many_forms(api: ProcessApi, since: str, there: bool) -> None:
    """As people and programs write them."""
    await api.run("echo hi", name="p")
    logs = await api.get(f"/process/p/logs?since={since}")
    assert logs["stdout"] == ("hi\n" if there else "")


async def test_logs_without_parameters_are_as_ever(api: ProcessApi, gate: Gate) -> None:
    """The three keys that clients know; where to read on; a character that has begun waits."""
    await api.start(f"echo hi; printf '\\342\\202'; cat {gate.path}; echo err >&2", name="p")
    path = "/process/p/logs"
    begun = await api.until(path, lambda logs: logs["stdoutOffset"] == 3)
    assert (begun["stdout"], begun["logs"]) == ("hi\n", "hi\n")
    await gate.open(b"\xac")
    await api.until("/process/p", lambda process: process["status"] == "completed")
    assert await api.get(path) == {
        "stdout": "hi\n€",
        "stderr": "err\n",
        "logs": "hi\n€err\n",
        "stdoutOffset": 6,
        "stderrOffset": 4,
        "truncated": {"stdout": 0, "stderr": 0},
    }
    assert (await api.get(f"{path}?{offsets(begun)}"))["logs"] == "€err\n"


async def test_logs_that_are_cut_say_how_much(open_api: OpenApi) -> None:
    """The marker as ever; the number of bytes as a field; and the begin is still to be had."""
    api = await open_api(max_log_reply_bytes=10)
    await api.run("echo 0123456789abcdef", name="p")
    logs = await api.get("/process/p/logs")
    assert logs["stdout"].endswith("full output ...]\n789abcdef\n")
    assert (logs["truncated"], logs["stdoutOffset"]) == ({"stdout": 7, "stderr": 0}, 17)
    begin = await api.get("/process/p/logs?stdoutOffset=0")
    assert (begin["stdout"], begin["stdoutOffset"]) == ("0123456789", 10)
    assert begin["truncated"] == {"stdout": 0, "stderr": 0}


async def test_g06_logs_are_read_page_by_page(api: ProcessApi) -> None:
    """All of a long log in small replies: each stream and both in order, as in one."""
    await api.run(NUMBERS, name="p")
    whole = await api.get("/process/p/logs")
    at: Json = {"stdoutOffset": 0, "stderrOffset": 0}
    pages: list[Json] = []
    while True:
        page = await api.get(f"/process/p/logs?maxBytes=1000&{offsets(at)}")
        assert len(page["logs"]) <= 1000
        if offsets(page) == offsets(at):
            break
        at = page
        pages.append(page)
    for key in ("stdout", "stderr", "logs"):
        assert "".join(page[key] for page in pages) == whole[key]
    assert offsets(at) == offsets(whole)


async def test_logs_of_the_last_lines(api: ProcessApi) -> None:
    """Of both streams together, and what has no newline is a line."""
    await api.run("echo one; sleep 0.05; echo two >&2; sleep 0.05; printf three", name="p")
    logs = await api.get("/process/p/logs?tail=2")
    assert (logs["stdout"], logs["stderr"], logs["logs"]) == ("three", "two\n", "two\nthree")
    assert (await api.get("/process/p/logs?tail=0"))["logs"] == ""


@pytest.fixture
async def cut(open_api: OpenApi) -> ProcessApi:
    """A process `p` whose first output is gone, for nothing of an ended run is kept."""
    api = await open_api(max_log_bytes_total=64 * 1024)
    await api.run("head -c 200000 /dev/zero | tr '\\0' x; echo; echo end", name="p")
    return api


async def test_g06_a_gap_is_an_event_with_its_size(cut: ProcessApi) -> None:
    """Counted from where the reader was; text and gap together are all there was."""
    gap, *data, end = await get_events(cut, "stdoutOffset=1000")
    lost = gap["bytes"]
    assert gap == {
        "type": "gap",
        "stream": "stdout",
        "bytes": lost,
        "stdoutOffset": 1000 + lost,
        "stderrOffset": 0,
    }
    assert 1000 + lost + len(joined(data, "stdout")) == 200_005 == end["stdoutOffset"]
    again = await get_events(cut, offsets(gap))
    assert joined(again, "stdout") == joined(data, "stdout")
    assert "gap" not in {event["type"] for event in again}


async def test_a_gap_in_text_and_in_logs(cut: ProcessApi) -> None:
    """A line of ours, as ever; a number of bytes."""
    logs = await cut.get("/process/p/logs?stdoutOffset=1000")
    lost = logs["truncated"]["stdout"]
    assert lost > 0
    assert 1000 + lost + len(logs["stdout"]) == logs["stdoutOffset"]
    line, _, _ = (await get_lines(cut, "stdoutOffset=1000")).partition(b"\n")
    assert line.decode() == f"stdout:[... truncated, {lost} bytes are gone ...]"


async def post_events(api: ProcessApi, query: str, **request: object) -> list[Json]:
    """`POST /process` with the event stream."""
    async with api.client.post(f"/process{query}", json=request, headers=EVENTS) as response:
        return await events(response)


async def test_events_of_a_start_carry_offsets_on_request(api: ProcessApi) -> None:
    """Who it is comes first, so that a client without a name can resume; the result is as ever."""
    start, out, result = await post_events(api, "?offsets=true", command="echo hi")
    process = json.loads(result["data"])
    assert start == {"type": "start", "pid": process["pid"], "name": process["name"]}
    assert out.pop("time").endswith("Z")
    assert out == {"type": "stdout", "data": "hi\n", "stdoutOffset": 3, "stderrOffset": 0}
    assert result == {"type": "result", "data": result["data"]}


async def test_events_of_a_start_are_as_ever_otherwise(api: ProcessApi) -> None:
    """No field and no event that a client does not know."""
    out, result = await post_events(api, "?offsets=1", command="echo hi")
    assert out == {"type": "stdout", "data": "hi\n"}
    assert result == {"type": "result", "data": result["data"]}


BAD = [
    ("logs", "stdoutOffset=-1", "stdoutOffset"),
    ("logs", "stderrOffset=x", "stderrOffset"),
    ("logs", "stdoutOffset=1e3", "stdoutOffset"),
    ("logs", "stdoutOffset=%D9%A1", "stdoutOffset"),
    ("logs", "stdoutOffset=99999999999999999999999", "stdoutOffset"),
    ("logs", "stdoutOffset=4", "stdoutOffset: 4 is past the end of stdout, which has 3 bytes"),
    ("logs", "stderrOffset=1", "stderrOffset: 1 is past the end of stderr, which has 0 bytes"),
    ("logs", "maxBytes=7", "maxBytes"),
    ("logs", "maxBytes=-9", "maxBytes"),
    ("logs", "tail=-1", "tail"),
    ("logs", "tail=all", "tail"),
    ("logs", "tail=1.5", "tail"),
    ("logs", "since=yesterday", "since"),
    ("logs", "since=2026-11-21T01:00:00", "since"),
    ("logs", "since=2026-13-41T01:00:00Z", "since"),
    ("logs", "since=-10", "since"),
    ("logs", "since=10x", "since"),
    ("logs", "since=10m%00", "since"),
    ("logs", "since=nan", "since"),
    ("logs", "since=1795224099123", "since"),
    ("logs/stream", "stdoutOffset=-1", "stdoutOffset"),
    ("logs/stream", "stdoutOffset=4", "stdoutOffset"),
    ("logs/stream", "tail=x", "tail"),
    ("logs/stream", "since=x", "since"),
    ("logs/stream", "format=sse", "format"),
]


@pytest.mark.parametrize(("route", "query", "named"), BAD)
async def test_bad_values_are_named(api: ProcessApi, route: str, query: str, named: str) -> None:
    """A 400 that says which parameter and which value, before a stream begins."""
    await api.run("echo hi", name="p")
    reply = await api.get(f"/process/p/{route}?{query}", 400)
    assert f"invalid {named}" in reply["error"]


async def test_unknown_is_unknown_whatever_is_asked(api: ProcessApi) -> None:
    """404 comes before what is wrong with the parameters."""
    for route in ("logs", "logs/stream"):
        reply = await api.get(f"/process/nope/{route}?tail=x", 404)
        assert "not found" in reply["error"]
