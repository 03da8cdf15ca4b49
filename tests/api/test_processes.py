"""Commands over HTTP: replies, errors and identifiers as clients know them."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

REPLY_KEYS = [
    "pid", "name", "command", "status", "startedAt", "completedAt", "exitCode", "workingDir",
    "logs", "stdout", "stderr", "restartOnFailure", "maxRestarts", "restartCount", "keepAlive",
]  # fmt: skip


@pytest.fixture
async def client(app_client: Callable[..., Awaitable[Any]]) -> Any:
    """The application with default settings."""
    return await app_client()


async def post(client: Any, status: int = 200, **request: object) -> Any:
    """`POST /process`, its status checked."""
    async with client.post("/process", json=request) as response:
        text = await response.text()
        assert response.status == status, text
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        return json.loads(text)


async def run(client: Any, command: str, status: int = 200, **request: object) -> Any:
    """Run a command and wait for its end."""
    return await post(client, status, command=command, waitForCompletion=True, **request)


async def get(client: Any, path: str, status: int = 200) -> Any:
    """A JSON reply, its status checked."""
    async with client.get(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def delete(client: Any, path: str, status: int = 200) -> Any:
    """`DELETE`, its status checked."""
    async with client.delete(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_a_waiting_start(client: Any) -> None:
    """The reply of recorded example E1: keys, order and values."""
    reply = await run(
        client, "echo out; echo $A 1>&2; exit 2", name="ex", workingDir="/tmp", env={"A": "err"}
    )
    assert [key for key in reply if key in REPLY_KEYS] == REPLY_KEYS
    started = parsedate_to_datetime(reply.pop("startedAt"))
    assert parsedate_to_datetime(reply.pop("completedAt")) >= started
    assert reply.pop("pid").isdigit()
    assert reply.pop("logs") in {"out\nerr\n", "err\nout\n"}
    assert {key: reply[key] for key in REPLY_KEYS if key in reply} == {
        "name": "ex", "command": "echo out; echo $A 1>&2; exit 2", "status": "failed", "exitCode": 2,
        "workingDir": "/tmp", "stdout": "out\n", "stderr": "err\n", "restartOnFailure": False,
        "maxRestarts": 0, "restartCount": 0, "keepAlive": False,
    }  # fmt: skip


async def test_a_start_that_does_not_wait(client: Any) -> None:
    """`logs` is null, `completedAt` is empty here and null in the list (E2, E3)."""
    reply = await post(client, command="echo hello; exec sleep 60", name="nowait")
    assert (reply["status"], reply["exitCode"], reply["completedAt"]) == ("running", 0, "")
    assert (reply["logs"], reply["stdout"], reply["stderr"]) == (None, "", "")
    one = await get(client, "/process/nowait")
    assert (one["pid"], one["completedAt"]) == (reply["pid"], "")
    (item,) = await get(client, "/process")
    assert (item["pid"], item["completedAt"]) == (reply["pid"], None)
    await delete(client, "/process/nowait/kill")


async def test_the_list_is_in_order_of_start(client: Any) -> None:
    """With output, newest last."""
    assert await get(client, "/process") == []
    for name in ("b", "c", "a"):
        await run(client, f"echo {name}", name=name)
    items = await get(client, "/process")
    assert [(item["name"], item["logs"]) for item in items] == [
        ("b", "b\n"), ("c", "c\n"), ("a", "a\n"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "EOF"),
        ("{", "unexpected EOF"),
        ('{"command": "x", bad}', "expecting property name"),
        ("[]", "cannot unmarshal array"),
        ('"x"', "cannot unmarshal string"),
        ("null", "'Command' failed on the 'required' tag"),
        ("{}", "'Command' failed on the 'required' tag"),
        ('{"command": ""}', "'Command' failed on the 'required' tag"),
        ('{"command": null}', "'Command' failed on the 'required' tag"),
        ('{"command": 5}', "field command"),
        ('{"command": "x", "name": []}', "field name"),
        ('{"command": "x", "env": {"A": 1}}', "field env"),
        ('{"command": "x", "env": ["A=1"]}', "field env"),
        ('{"command": "x", "timeout": "5"}', "field timeout"),
        ('{"command": "x", "timeout": 1.5}', "field timeout"),
        ('{"command": "x", "timeout": 1.0}', "field timeout"),
        ('{"command": "x", "timeout": 1e3}', "field timeout"),
        ('{"command": "x", "timeout": 9223372036854775808}', "field timeout"),
        ('{"command": "x", "maxRestarts": true}', "field maxRestarts"),
        ('{"command": "x", "waitForCompletion": "yes"}', "field waitForCompletion"),
        ('{"command": "x", "waitForPorts": [80, "x"]}', "field waitForPorts"),
        ('{"command": "x", "waitForPorts": 80}', "field waitForPorts"),
        ('{"command": "x", "keepAlive": 1}', "field keepAlive"),
        ('{"command": "x", "timeout": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "invalid request body: "),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_g27_bodies_that_are_refused(client: Any, accept: str, body: str, text: str) -> None:
    """400 with the stable prefix and what is wrong, as JSON also where a stream was asked for."""
    async with client.post("/process", data=body, headers={"Accept": accept}) as response:
        assert response.status == 400
        assert response.content_type == "application/json"
        error = (await response.json())["error"]
    assert error.startswith("invalid request body: ")
    assert text.lower() in error.lower()


async def test_bodies_that_are_forgiven(client: Any) -> None:
    """Keys in any case, unknown keys, nulls, bytes after the value, any Content-Type."""
    body = '{"COMMAND": "echo hi", "waitforcompletion": true, "name": null, "cwd": "/", "timeout": -3}}x'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with client.post("/process", data=body, headers=headers) as response:
        assert response.status == 200
        assert (await response.json())["stdout"] == "hi\n"


@pytest.mark.parametrize(
    ("status", "request_", "text"),
    [
        (400, {"workingDir": "~/x"}, "home directory not found"),
        (400, {"workingDir": "a\0b"}, "NUL"),
        (400, {"name": "n" * 256}, "invalid process name: at most 255 bytes"),
        (400, {"name": "a\0b"}, "invalid process name"),
        (400, {"env": {"": "x"}}, "invalid env name ''"),
        (
            422,
            {"workingDir": "/nope"},
            "failed to start process: could not execute command 'pwd' because folder '/nope' does not exist",
        ),
        (
            422,
            {"workingDir": "/etc/passwd"},
            "failed to start process: could not execute command 'pwd' because '/etc/passwd' is not a directory",
        ),
        (422, {"env": {"A": "\0"}}, "failed to start process: environment variable contains NUL"),
        (422, {"env": {"A": "x" * 200_000}}, "failed to start process: fork/exec "),
        (422, {"command": "a\0b"}, "failed to start process: invalid argument"),
        (422, {"command": "x" * 200_000}, "argument list too long"),
    ],
)
async def test_starts_that_are_refused(
    app_client: Callable[..., Awaitable[Any]], status: int, request_: dict[str, Any], text: str
) -> None:
    """Each row of the table in spec/process.md 2; nothing is left in the list."""
    client = await app_client(home="")
    error = (await run(client, **{"command": "pwd", **request_, "status": status}))["error"]
    assert text in error
    assert await get(client, "/process") == []


async def test_a_shell_that_is_not_there(app_client: Callable[..., Awaitable[Any]]) -> None:
    """The text names what to set."""
    client = await app_client(launch_environment={"PATH": os.environ["PATH"], "SHELL": "nosh"})
    error = (await run(client, "true", 422))["error"]
    assert error.startswith('failed to start process: exec: "nosh": executable file not found')
    assert "SHELL" in error


async def test_a_name_in_use(client: Any) -> None:
    """400, until the process has ended; numbers too (E7, Q18)."""
    for name in ("dup", "123"):
        await post(client, command="sleep 60", name=name)
        error = (await post(client, 400, command="true", name=name))["error"]
        assert error == f"process with name '{name}' already exists and is running"
        await delete(client, f"/process/{name}/kill")
        await run(client, "true", name=name)


async def test_a_wait_that_runs_out(client: Any) -> None:
    """422 with the process's fields beside the text; it goes on and is not killed (E8, Q21)."""
    reply = await run(client, "exec sleep 60", 422, name="t1", timeout=1)
    assert reply["error"] == "process timed out after 1 seconds"
    assert reply["name"] == "t1"
    one = await get(client, f"/process/{reply['pid']}")
    assert one["status"] == "running"
    await delete(client, "/process/t1/kill")


@pytest.mark.parametrize("timeout", [0, -5, 10_000_000_000])
async def test_timeouts_that_do_not_bound(client: Any, timeout: int) -> None:
    """0 and less are none, and a huge one does not run out at once (Q26)."""
    assert (await run(client, "echo hi", timeout=timeout))["stdout"] == "hi\n"


async def test_a_timeout_without_a_wait_means_nothing(client: Any, eventually: Any) -> None:
    """It does not end the process (spec/process.md 4.2)."""
    await post(client, command="sleep 1.2; exit 9", name="t", timeout=1)
    async with asyncio.timeout(5):
        while (one := await get(client, "/process/t"))["status"] == "running":
            await asyncio.sleep(0.05)
    assert (one["status"], one["exitCode"]) == ("failed", 9)


async def test_a_client_that_leaves_changes_nothing(client: Any, tmp_path: Path) -> None:
    """The process goes on when the waiting request is broken off."""
    os.mkfifo(tmp_path / "fifo")
    request = asyncio.create_task(run(client, f"cat {tmp_path}/fifo; exit 5", name="p"))
    async with asyncio.timeout(5):
        while not await get(client, "/process"):
            await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    assert (await get(client, "/process/p/wait?timeout=5"))["exitCode"] == 5


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "123", "a b", "日本語", "%2F", "?x=1#y", "n" * 255]
)
async def test_g18_any_name_is_reached(client: Any, name: str) -> None:
    """By GET, logs and stream, percent-encoded; nothing leaves the state directory."""
    from urllib.parse import quote

    from yarl import URL

    await run(client, "echo hi", name=name)
    path = URL(f"/process/{quote(name, safe='')}", encoded=True)
    assert (await get(client, path))["name"] == name
    assert (await get(client, path.joinpath("logs")))["logs"] == "hi\n"
    async with client.get(path.joinpath("logs", "stream")) as response:
        assert await response.text() == "stdout:hi\n"


async def test_logs(client: Any) -> None:
    """Each stream alone and both in order; late output of background children too."""
    reply = await run(
        client, "echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c; (sleep 0.1; echo late) &"
    )
    path = f"/process/{reply['pid']}/logs"
    async with asyncio.timeout(5):
        while "late" not in (logs := await get(client, path))["logs"]:
            await asyncio.sleep(0.02)
    assert logs == {"stdout": "a\nc\nlate\n", "stderr": "b\n", "logs": "a\nb\nc\nlate\n"}


async def test_tails_of_replies(app_client: Callable[..., Awaitable[Any]]) -> None:
    """GET shows the last 64 KiB of each stream, a waiting POST and logs 4 MiB, with the marker."""
    client = await app_client()
    marker = "[... truncated, see the process log file for the full output ...]\n"
    reply = await run(client, "seq 100000", name="x")
    whole = "".join(f"{n}\n" for n in range(1, 100001))
    assert reply["stdout"] == whole
    assert (await get(client, "/process/x/logs"))["logs"] == whole
    assert (await get(client, "/process/x"))["stdout"] == marker + whole[-65536:]
    (item,) = await get(client, "/process")
    assert item["logs"] == marker + whole[-65536:]


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/process/nope", "process not found"),
        ("GET", "/process/nope/logs", "process with PID nope not found"),
        ("GET", "/process/nope/logs/stream", "process with Identifier nope not found"),
        ("GET", "/process/999999/wait", "process not found"),
        ("DELETE", "/process/nope", "process with Identifier nope not found"),
        ("DELETE", "/process/a/b", "process with Identifier a/b not found"),
        ("DELETE", "/process/nope/kill", "nope"),
    ],
)
async def test_what_is_unknown(client: Any, method: str, path: str, text: str) -> None:
    """404 as JSON, the stream too, before any of its headers (Q14)."""
    async with client.request(method, path) as response:
        assert response.status == 404
        assert response.content_type == "application/json"
        assert text in (await response.json())["error"]


async def test_stop_and_kill(client: Any) -> None:
    """The messages of the reference; a stop of what has ended is 404 (E9)."""
    await post(client, command="exec sleep 60", name="s")
    assert (await delete(client, "/process/s"))["message"] == "Process stopped successfully"
    one = await get(client, "/process/s")
    assert (one["status"], one["exitCode"]) == ("stopped", -1)
    assert (await delete(client, "/process/s"))["message"] == "Process stopped successfully"
    error = (await delete(client, "/process/s/kill", 404))["error"]
    assert error == "failed to kill process with Identifier s: no such process"

    await post(client, command="exec sleep 60", name="k")
    assert (await delete(client, "/process/k/kill"))["message"] == "Process killed successfully"
    one = await get(client, "/process/k")
    assert (one["status"], one["exitCode"], one["signal"]) == ("killed", -1, "SIGKILL")

    await run(client, "true", name="e")
    error = (await delete(client, "/process/e", 404))["error"]
    assert error == "process with Identifier e is not running"


async def test_g12_a_stop_that_is_ignored_says_so(client: Any) -> None:
    """200 within 3 s and a bit; it says that it is stopping; then its name can be had at once."""
    await post(client, command="trap '' TERM; echo r; while :; do sleep 1; done", name="s")
    async with asyncio.timeout(5):
        while not (await get(client, "/process/s/logs"))["logs"]:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(4):
        reply = await delete(client, "/process/s")
    assert (reply["status"], reply["stopping"]) == ("running", True)
    assert "is stopping" in reply["message"]
    one = await get(client, "/process/s")
    assert (one["status"], one["stopping"], one["completedAt"]) == ("running", True, "")
    assert (await run(client, "echo new", name="s"))["stdout"] == "new\n"
    items = await get(client, "/process")
    assert [(item["status"], item["stopping"]) for item in items] == [
        ("killed", False), ("completed", False),
    ]  # fmt: skip


async def test_wait(client: Any) -> None:
    """Held until the end, or for the time given; the current state either way."""
    await post(client, command="exec sleep 60", name="w")
    assert (await get(client, "/process/w/wait?timeout=0.05"))["status"] == "running"
    waiting = asyncio.create_task(get(client, "/process/w/wait?timeout=60"))
    await get(client, "/process/w")
    await delete(client, "/process/w/kill")
    async with asyncio.timeout(2):
        assert (await waiting)["status"] == "killed"
    for bad in ("x", "-1", "nan", ""):
        status = 200 if bad == "" else 400
        await get(client, f"/process/w/wait?timeout={bad}", status)


@pytest.mark.parametrize("path", ["", "/logs", "/logs/stream"])
async def test_g26_head_tells_whether_it_exists(client: Any, path: str) -> None:
    """200 or 404 at once, also for the stream of a process that runs."""
    await post(client, command="exec sleep 60", name="h")
    async with asyncio.timeout(2), client.head(f"/process/h{path}") as response:
        assert response.status == 200
    async with client.head(f"/process/nope{path}") as response:
        assert response.status == 404
    async with client.head("/process") as response:
        assert response.status == 200
    await delete(client, "/process/h/kill")


async def test_text_on_the_wire(client: Any) -> None:
    """Bytes that are no UTF-8, controls and lone surrogates give valid JSON everywhere."""
    body = (
        b'{"command": "printf \'\\\\377\\\\001\\u2028<&>\'; : \\ud800", "waitForCompletion": true}'
    )
    async with client.post("/process", data=body) as response:
        reply = json.loads((await response.read()).decode("utf-8", "strict"))
    assert reply["stdout"] == "\ufffd\x01\u2028<&>"
    assert reply["command"].endswith(": \ufffd")


async def test_restarts_on_the_wire(client: Any) -> None:
    """The recorded example E14."""
    reply = await run(client, "echo run; exit 5", restartOnFailure=True, maxRestarts=1)
    notice = "\n[Process failed with exit code 5. Attempting restart 1/1...]\n"
    assert reply["stdout"] == f"run\n{notice}run\n"
    assert (reply["status"], reply["exitCode"], reply["restartCount"]) == ("failed", 5, 1)
    assert (reply["restartOnFailure"], reply["maxRestarts"]) == (True, 1)


async def test_a_hundred_waits_at_once(client: Any) -> None:
    """Nothing limits how many commands run; each answer is its own."""
    replies = await asyncio.gather(*[run(client, f"echo {n}; exit {n % 7}") for n in range(100)])
    assert [(r["stdout"], r["exitCode"]) for r in replies] == [
        (f"{n}\n", n % 7) for n in range(100)
    ]


async def test_g08_a_wait_ends_with_the_process(client: Any) -> None:
    """The answer is driven by the exit, not by a tick: 60 in a row take less than any polling."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for _ in range(60):
        await run(client, "true")
    assert loop.time() - begin < 60 * 0.05
