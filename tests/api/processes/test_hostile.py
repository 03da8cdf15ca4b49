"""G27 for processes: requests that mean harm, or make no sense. This table is written by hand."""

import io
import json
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from yarl import URL

from tests.api.processes.conftest import OpenApi, ProcessApi

EVENTS = {"Accept": "text/event-stream"}
BIG = 10**18


class Hostile(NamedTuple):
    """A request, and what is right."""

    method: str
    path: str
    statuses: set[int]
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012 - a tuple; nobody changes it


def post(body: object, *statuses: int, path: str = "/process", **headers: str) -> Hostile:
    """A command that should not start, or should end at once."""
    return Hostile("POST", path, set(statuses), body, headers)


def get(path: str, *statuses: int) -> Hostile:
    """What should not be found."""
    return Hostile("GET", path, set(statuses))


def run(*statuses: int, **fields: object) -> Hostile:
    """`true`, and something more."""
    return post({"command": "true", **fields}, *statuses)


OF_DONE = "/process/done"
TRAVERSAL = quote("../../../../etc/cron.d/x", safe="")

REQUESTS = {
    # names
    "name that climbs": run(200, name="../../../../tmp/evil", waitForCompletion=True),
    "name of dots": run(200, name="..", waitForCompletion=True),
    "name of a slash": run(200, name="/", waitForCompletion=True),
    "name that is a route": run(200, name="x/logs/stream", waitForCompletion=True),
    "name with a NUL": run(400, name="a\0b"),
    "name with line ends": run(200, name="a\r\nX-Evil: 1\n", waitForCompletion=True),
    "name of escapes": run(200, name="\x1b[2J\x1b]0;x\x07", waitForCompletion=True),
    "name too long": run(400, name="ä" * 128),
    "name as long as can be": run(200, name="x" * 255, waitForCompletion=True),
    "name that is half a character": run(200, name="\udc80", waitForCompletion=True),
    "name that is a number": run(200, name="1", waitForCompletion=True),
    "name that is negative": run(200, name="-1", waitForCompletion=True),
    "name of spaces": run(200, name="   ", waitForCompletion=True),
    "name of a query": run(200, name="a?b=c#d", waitForCompletion=True),
    "name that is a list": run(400, name=["x"]),
    # commands
    "no command": post({}, 400),
    "empty command": post({"command": ""}, 400),
    "command that is a list": post({"command": ["true"]}, 400),
    "command with a NUL": post({"command": "tr\0ue"}, 422),
    "command too long": post({"command": "#" * (1 << 21)}, 422),
    "command of lone surrogates": post({"command": "# \udcff", "waitForCompletion": True}, 200),
    "command that looks like a flag": post({"command": "-c evil", "waitForCompletion": True}, 200),
    "command of line ends": post({"command": "\n\n\n", "waitForCompletion": True}, 200),
    # variables
    "variable without a name": run(400, env={"": "x"}),
    "variable with an equals sign": run(400, env={"A=B": "x"}),
    "variable with a NUL": run(422, env={"A": "x\0y"}),
    "variable's name with a NUL": run(422, env={"A\0B": "x"}),
    "variable that is a number": run(400, env={"A": 1}),
    "variable too long": run(422, env={"A": "x" * (1 << 20)}),
    "too many variables": run(422, env={f"V{n}": "x" * 100 for n in range(30_000)}),
    "variables that are a list": run(400, env=["A=1"]),
    "a loader's variable": run(200, env={"LD_PRELOAD": "/nonexistent.so"}, waitForCompletion=True),
    # directories
    "directory with a NUL": run(400, workingDir="/tmp\0/x"),
    "directory that is a file": run(422, workingDir="/etc/passwd"),
    "directory of a file": run(422, workingDir="/etc/passwd/x"),
    "directory too long": run(422, workingDir="/" + "a" * 5000),
    "directory of many parts": run(422, workingDir="/a" * 3000),
    "directory of lone surrogates": run(422, workingDir="/\ud800"),
    "directory of nobody": run(422, workingDir="~nobody-at-all/x"),
    "directory that is a number": run(400, workingDir=3),
    # numbers
    "timeout beyond 64 bits": run(400, timeout=10**30),
    "timeout as large as can be": run(200, timeout=2**63 - 1, waitForCompletion=True),
    "timeout that is negative": run(200, timeout=-BIG, waitForCompletion=True),
    "timeout that is a text": run(400, timeout="5"),
    "timeout that is half": run(400, timeout=1.5),
    "maxRuntime that is negative": run(400, maxRuntime=-5, waitForCompletion=True),
    "maxRuntime that is huge": run(200, maxRuntime=1e300, waitForCompletion=True),
    "maxRestarts that is huge": run(200, maxRestarts=2**62, waitForCompletion=True),
    "ports that cannot be": run(422, waitForPorts=[-1, 0, 65536, BIG], timeout=1),
    "ports that are texts": run(400, waitForPorts=["80"]),
    "ports by the thousand": run(422, waitForPorts=list(range(1, 60_000)), timeout=1),
    # bodies
    "keys that differ by case": post('{"command":"true","COMMAND":"","Command":"x"}', 200),
    "keys twice": post('{"command":"false","command":"true"}', 200),
    "more after the object": post('{"command":"true"}{"command":"evil"', 200),
    "deep below a key": post('{"command":"true","x":' + "[" * 20_000 + "]" * 20_000 + "}", 400),
    "stream of a command that cannot be": post({"command": ""}, 400, **EVENTS),
    "stream of no directory": post({"command": "true", "workingDir": "/nope"}, 200, **EVENTS),
    "offsets that are no flag": post({"command": ":"}, 200, path="/process?offsets=%00", **EVENTS),
    # identifiers
    "identifier that climbs": get(f"/process/{TRAVERSAL}", 404),
    "identifier's logs that climb": get(f"/process/{TRAVERSAL}/logs", 404),
    "identifier of PID 1": Hostile("DELETE", "/process/1/kill", {404}),
    "identifier that means everybody": Hostile("DELETE", "/process/-1/kill", {404}),
    "identifier that means our group": Hostile("DELETE", "/process/0", {404}),
    "identifier with a plus": get("/process/+1", 404),
    "identifier of other digits": get("/process/" + quote("١٢٣"), 404),
    "identifier of 4000 bytes": get("/process/" + "x" * 4000, 404),
    "identifier of nothing": get("/process//logs", 404),
    # logs and waits
    "offset that is negative": get(f"{OF_DONE}/logs?stdoutOffset=-1", 400),
    "offset beyond the end": get(f"{OF_DONE}/logs?stdoutOffset={BIG}", 400),
    "offset beyond 64 bits": get(f"{OF_DONE}/logs?stderrOffset={10**40}", 400),
    "offset that is hexadecimal": get(f"{OF_DONE}/logs?stdoutOffset=0x10", 400),
    "tail without end": get(f"{OF_DONE}/logs?tail={BIG}", 400),
    "tail that is negative": get(f"{OF_DONE}/logs/stream?tail=-5", 400),
    "since that is no time": get(f"{OF_DONE}/logs?since=yesterday", 400),
    "since of a year that is not": get(f"{OF_DONE}/logs?since=99999-01-01T00:00:00Z", 400),
    "since far away": get(f"{OF_DONE}/logs?since=999999999999d", 200),
    "maxBytes of nothing": get(f"{OF_DONE}/logs?maxBytes=0", 400),
    "format that is not": get(f"{OF_DONE}/logs/stream?format=xml", 400),
    "wait that is no number": get(f"{OF_DONE}/wait?timeout=nan", 400),
    "wait that is negative": get(f"{OF_DONE}/wait?timeout=-1", 400),
    "wait without end": get(f"{OF_DONE}/wait?timeout=inf", 400),
    "wait of many digits": get(f"{OF_DONE}/wait?timeout=1e400", 400),
    # stdin
    "stdin of a finished process": post("x", 409, path=f"{OF_DONE}/stdin"),
    "stdin of nobody": post("x", 404, path="/process/nobody/stdin"),
    "stdin of a process without": post("x", 409, path="/process/lives/stdin"),
    "end of stdin of a process without": Hostile("DELETE", "/process/lives/stdin", {409}),
    "end of stdin of nobody": Hostile("DELETE", "/process/nobody/stdin", {404}),
    # methods
    "method that is not": Hostile("PUT", "/process", {404}, {"command": "true"}),
    "patch of a process": Hostile("PATCH", OF_DONE, {404}, {"status": "running"}),
    "stop of a finished process": Hostile("DELETE", OF_DONE, {404}),
}  # fmt: skip


async def send(api: ProcessApi, request: Hostile) -> None:
    """The status is right; an error is a JSON object with a text, or the plain 404."""
    body = request.body
    data = body if isinstance(body, str) else None if body is None else json.dumps(body)
    async with api.client.request(
        request.method,
        URL(request.path, encoded=True),
        data=None if data is None else io.BytesIO(data.encode()),
        headers=request.headers,
    ) as response:
        text = await response.text()
    assert response.status in request.statuses, (response.status, text[:500])
    if response.status >= 400 and text != "404 page not found":
        error = json.loads(text)["error"]
        assert error
        assert "Traceback" not in error
        assert len(error) < 10_000


@pytest.mark.parametrize("name", REQUESTS)
async def test_g27_hostile_requests(api: ProcessApi, name: str) -> None:
    """Each is answered as it should be; what runs goes on, and the daemon works."""
    await api.run("echo done", name="done")
    await api.start("exec sleep 60", name="lives")
    await send(api, REQUESTS[name])
    assert (await api.get("/process/lives"))["status"] == "running"
    assert (await api.run("echo still here"))["stdout"] == "still here\n"
    assert isinstance(await api.get("/process"), list)


async def test_stdin_over_its_limit(open_api: OpenApi) -> None:
    """413 that names the setting, and the process goes on."""
    api = await open_api(max_stdin_bytes=10)
    await api.start("cat", name="x", stdin=True)
    await send(api, post("x" * 11, 413, path="/process/x/stdin"))
    await send(api, post("x" * 10, 200, path="/process/x/stdin"))
    await api.delete("/process/x/stdin")
    assert (await api.get("/process/x/wait"))["status"] == "completed"
