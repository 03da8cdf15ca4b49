"""Commands over HTTP: replies, errors and identifiers as clients know them."""

import asyncio
import json
import os
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from yarl import URL

from tests.api.processes.conftest import OpenApi, ProcessApi

REPLY_KEYS = [
    "pid", "name", "command", "status", "startedAt", "completedAt", "exitCode", "workingDir",
    "logs", "stdout", "stderr", "restartOnFailure", "maxRestarts", "restartCount", "keepAlive",
]  # fmt: skip


async def test_a_waiting_start(api: ProcessApi) -> None:
    """The reply of recorded example E1: keys, order and values."""
    command = "echo out; echo $A 1>&2; exit 2"
    reply = await api.run(command, name="ex", workingDir="/tmp", env={"A": "err"})
    assert [key for key in reply if key in REPLY_KEYS] == REPLY_KEYS
    started = parsedate_to_datetime(reply.pop("startedAt"))
    assert parsedate_to_datetime(reply.pop("completedAt")) >= started
    assert reply.pop("pid").isdigit()
    assert reply.pop("logs") in {"out\nerr\n", "err\nout\n"}
    assert {key: reply[key] for key in REPLY_KEYS if key in reply} == {
        "name": "ex", "command": command, "status": "failed", "exitCode": 2,
        "workingDir": "/tmp", "stdout": "out\n", "stderr": "err\n", "restartOnFailure": False,
        "maxRestarts": 0, "restartCount": 0, "keepAlive": False,
    }  # fmt: skip


async def test_a_start_that_does_not_wait(api: ProcessApi) -> None:
    """`logs` is null, `completedAt` is empty here and null in the list (E2, E3)."""
    reply = await api.start("echo hello; exec sleep 60", name="nowait")
    assert (reply["status"], reply["exitCode"], reply["completedAt"]) == ("running", 0, "")
    assert (reply["logs"], reply["stdout"], reply["stderr"]) == (None, "", "")
    one = await api.get("/process/nowait")
    assert (one["pid"], one["completedAt"]) == (reply["pid"], "")
    (item,) = await api.get("/process")
    assert (item["pid"], item["completedAt"]) == (reply["pid"], None)
    await api.delete("/process/nowait/kill")


async def test_the_list_is_in_order_of_start(api: ProcessApi) -> None:
    """With output, newest last."""
    assert await api.get("/process") == []
    for name in ("b", "c", "a"):
        await api.run(f"echo {name}", name=name)
    items = await api.get("/process")
    assert [(item["name"], item["logs"]) for item in items] == [
        ("b", "b\n"), ("c", "c\n"), ("a", "a\n"),
    ]  # fmt: skip


async def test_a_wait_that_runs_out(api: ProcessApi) -> None:
    """422 with the process's fields beside the text; it goes on and is not killed (E8, Q21)."""
    reply = await api.run("exec sleep 60", 422, name="t1", timeout=1)
    assert reply["error"] == "process timed out after 1 seconds"
    assert reply["name"] == "t1"
    one = await api.get(f"/process/{reply['pid']}")
    assert one["status"] == "running"
    await api.delete("/process/t1/kill")


@pytest.mark.parametrize("seconds", [0, -5, 10_000_000_000])
async def test_timeouts_that_do_not_bound(api: ProcessApi, seconds: int) -> None:
    """0 and less are none, and a huge one does not run out at once (Q26)."""
    assert (await api.run("echo hi", timeout=seconds))["stdout"] == "hi\n"


async def test_a_timeout_without_a_wait_means_nothing(api: ProcessApi) -> None:
    """It does not end the process (spec/process.md 4.2)."""
    await api.start("sleep 1.2; exit 9", name="t", timeout=1)
    one = await api.until("/process/t", lambda reply: reply["status"] != "running")
    assert (one["status"], one["exitCode"]) == ("failed", 9)


async def test_a_client_that_leaves_changes_nothing(api: ProcessApi, tmp_path: Path) -> None:
    """The process goes on when the waiting request is broken off."""
    os.mkfifo(tmp_path / "fifo")
    request = asyncio.create_task(api.run(f"cat {tmp_path}/fifo; exit 5", name="p"))
    await api.until("/process", bool)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    assert (await api.get("/process/p/wait?timeout=5"))["exitCode"] == 5


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "123", "a b", "日本語", "%2F", "?x=1#y", "n" * 255]
)
async def test_g18_any_name_is_reached(api: ProcessApi, name: str) -> None:
    """By GET, logs and stream, percent-encoded; nothing leaves the state directory."""
    await api.run("echo hi", name=name)
    path = URL(f"/process/{quote(name, safe='')}", encoded=True)
    assert (await api.get(path))["name"] == name
    assert (await api.get(path.joinpath("logs")))["logs"] == "hi\n"
    async with api.client.get(path.joinpath("logs", "stream")) as response:
        assert await response.text() == "stdout:hi\n"


async def test_logs(api: ProcessApi) -> None:
    """Each stream alone and both in order; late output of background children too."""
    reply = await api.run(
        "echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c; (sleep 0.1; echo late) &"
    )
    path = f"/process/{reply['pid']}/logs"
    logs = await api.until(path, lambda reply: "late" in reply["logs"])
    assert (logs["stdout"], logs["stderr"]) == ("a\nc\nlate\n", "b\n")
    assert logs["logs"] == "a\nb\nc\nlate\n"


async def test_tails_of_replies(open_api: OpenApi) -> None:
    """GET shows the last 64 KiB of each stream, a waiting POST and logs 4 MiB, with the marker."""
    api = await open_api()
    marker = "[... truncated, see the process log file for the full output ...]\n"
    reply = await api.run("seq 100000", name="x")
    whole = "".join(f"{n}\n" for n in range(1, 100001))
    assert reply["stdout"] == whole
    assert (await api.get("/process/x/logs"))["logs"] == whole
    assert (await api.get("/process/x"))["stdout"] == marker + whole[-65536:]
    (item,) = await api.get("/process")
    assert item["logs"] == marker + whole[-65536:]


async def test_stop_and_kill(api: ProcessApi) -> None:
    """The messages of the reference; a stop of what has ended is 404 (E9)."""
    await api.start("exec sleep 60", name="s")
    assert (await api.delete("/process/s"))["message"] == "Process stopped successfully"
    one = await api.get("/process/s")
    assert (one["status"], one["exitCode"]) == ("stopped", -1)
    assert (await api.delete("/process/s"))["message"] == "Process stopped successfully"
    error = (await api.delete("/process/s/kill", 404))["error"]
    assert error == "failed to kill process with Identifier s: no such process"

    await api.start("exec sleep 60", name="k")
    assert (await api.delete("/process/k/kill"))["message"] == "Process killed successfully"
    one = await api.get("/process/k")
    assert (one["status"], one["exitCode"], one["signal"]) == ("killed", -1, "SIGKILL")

    await api.run("true", name="e")
    error = (await api.delete("/process/e", 404))["error"]
    assert error == "process with Identifier e is not running"


async def test_g12_a_stop_that_is_ignored_says_so(api: ProcessApi) -> None:
    """200 within 3 s and a bit; it says that it is stopping; then its name can be had at once."""
    await api.start("trap '' TERM; echo r; while :; do sleep 1; done", name="s")
    await api.until("/process/s/logs", lambda reply: reply["logs"])
    async with asyncio.timeout(4):
        reply = await api.delete("/process/s")
    assert (reply["status"], reply["stopping"]) == ("running", True)
    assert "is stopping" in reply["message"]
    one = await api.get("/process/s")
    assert (one["status"], one["stopping"], one["completedAt"]) == ("running", True, "")
    assert (await api.run("echo new", name="s"))["stdout"] == "new\n"
    items = await api.get("/process")
    assert [(item["status"], item["stopping"]) for item in items] == [
        ("killed", False), ("completed", False),
    ]  # fmt: skip


async def test_wait(api: ProcessApi) -> None:
    """Held until the end, or for the time given; the current state either way."""
    await api.start("exec sleep 60", name="w")
    assert (await api.get("/process/w/wait?timeout=0.05"))["status"] == "running"
    waiting = asyncio.create_task(api.get("/process/w/wait?timeout=60"))
    await api.get("/process/w")
    await api.delete("/process/w/kill")
    async with asyncio.timeout(2):
        assert (await waiting)["status"] == "killed"
    for bad in ("x", "-1", "nan", ""):
        status = 200 if bad == "" else 400
        await api.get(f"/process/w/wait?timeout={bad}", status)


async def test_text_on_the_wire(api: ProcessApi) -> None:
    """Bytes that are no UTF-8, controls and lone surrogates give valid JSON everywhere."""
    body = (
        b'{"command": "printf \'\\\\377\\\\001\\u2028<&>\'; : \\ud800", "waitForCompletion": true}'
    )
    async with api.client.post("/process", data=body) as response:
        reply = json.loads((await response.read()).decode("utf-8", "strict"))
    assert reply["stdout"] == "\ufffd\x01\u2028<&>"
    assert reply["command"].endswith(": \ufffd")


async def test_restarts_on_the_wire(api: ProcessApi) -> None:
    """The recorded example E14."""
    reply = await api.run("echo run; exit 5", restartOnFailure=True, maxRestarts=1)
    notice = "\n[Process failed with exit code 5. Attempting restart 1/1...]\n"
    assert reply["stdout"] == f"run\n{notice}run\n"
    assert (reply["status"], reply["exitCode"], reply["restartCount"]) == ("failed", 5, 1)
    assert (reply["restartOnFailure"], reply["maxRestarts"]) == (True, 1)


async def test_a_hundred_waits_at_once(api: ProcessApi) -> None:
    """Nothing limits how many commands run; each answer is its own."""
    replies = await asyncio.gather(*[api.run(f"echo {n}; exit {n % 7}") for n in range(100)])
    assert [(r["stdout"], r["exitCode"]) for r in replies] == [
        (f"{n}\n", n % 7) for n in range(100)
    ]


async def test_g08_a_wait_ends_with_the_process(api: ProcessApi) -> None:
    """The answer is driven by the exit, not by a tick: 60 in a row take less than any polling."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for _ in range(60):
        await api.run("true")
    assert loop.time() - begin < 60 * 0.05
