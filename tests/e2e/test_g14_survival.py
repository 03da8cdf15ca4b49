"""G14: the daemon is killed, and started again; processes, their output and their names go on."""

import http.client
import os
import signal
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from sandbox_api.core.processes.logfile import pending_bytes
from sandbox_api.core.processes.tree import read_stat
from tests.e2e.conftest import ENDS, Json, Sandbox, StartDaemon, eventually, gone, kernel_tells

MIB = 1 << 20
FLOOD = 100_000


def numbers(count: int) -> list[bytes]:
    """The lines of a command that counts."""
    return [b"%d\n" % number for number in range(count)]


def test_g14_a_loop_that_prints_numbers(sandbox: Sandbox, tmp_path: Path) -> None:
    """Killed twice in the middle: no number is missing, none is there twice, live or later."""
    stop = tmp_path / "stop"
    sandbox.run(
        f"i=0; while [ ! -e {stop} ]; do echo $i; i=$((i+1)); sleep 0.005; done; echo $i; exit 3",
        name="loop",
    )
    for number in (signal.SIGKILL, signal.SIGTERM):
        more = len(sandbox.get("loop")["stdout"]) + 100
        while len(sandbox.get("loop")["stdout"]) < more:
            time.sleep(0.01)
        sandbox.restart(number)
    assert sandbox.get("loop")["status"] == "running"
    with sandbox.open("GET", "/process/loop/logs/stream") as response:
        begin = [response.readline() for _ in range(80)]
        stop.touch()
        live = [line.removeprefix(b"stdout:") for line in [*begin, *response]]
    assert live == numbers(len(live))
    assert sandbox.stream("loop") == {"stdout": live, "stderr": []}
    ended = sandbox.wait("loop")
    assert ended["stdout"] == ended["logs"] == b"".join(live).decode()
    if kernel_tells(ended):
        assert (ended["status"], ended["exitCode"]) == ("failed", 3)


def test_g14_a_flood_over_many_kills(sandbox: Sandbox, tmp_path: Path) -> None:
    """Killed while it moves bytes and writes marks, whatever the moment: both streams are whole.

    The command outlives the kills: nobody holds its pipes yet when the first one comes.
    """
    stop = tmp_path / "stop"
    sandbox.run(
        f"i=0; while [ $i -lt {FLOOD} ]; do echo $i; echo $i >&2; i=$((i+1)); done;"
        f" while [ ! -e {stop} ]; do sleep 0.05; done",
        name="flood",
    )
    for moment in range(6):
        time.sleep(0.007 * moment)  # the moment of the kill is what is tested
        sandbox.restart()
    stop.touch()
    lines = sandbox.stream("flood")
    assert lines["stdout"] == lines["stderr"] == numbers(FLOOD)
    order = [sandbox.open("GET", "/process/flood/logs/stream") for _ in range(2)]
    with order[0] as first, order[1] as second:
        assert first.read() == second.read()


@ENDS
def test_g14_names_and_ends(sandbox: Sandbox, end: signal.Signals) -> None:
    """The name stays taken, the order stays, stop and kill work on the whole tree."""
    sandbox.run("echo over; exit 4", name="over", waitForCompletion=True)
    for name in ("stopped", "killed"):
        sandbox.run("sleep 600 & echo $!; exec sleep 600", name=name)
    before = eventually(lambda: [sandbox.get(name) for name in ("over", "stopped", "killed")])
    eventually(lambda: sandbox.get("killed")["stdout"] and sandbox.get("stopped")["stdout"])
    sandbox.restart(end)

    after = sandbox.call("GET", "/process")
    assert [one["name"] for one in after] == ["over", "stopped", "killed"]
    assert [one["pid"] for one in after] == [one["pid"] for one in before]
    assert sandbox.get("over") == before[0]
    assert (after[0]["exitCode"], after[0]["stdout"]) == (4, "over\n")
    error = sandbox.run("true", 400, name="stopped")["error"]
    assert error == "process with name 'stopped' already exists and is running"
    sandbox.call("DELETE", "/process/stopped")
    sandbox.call("DELETE", f"/process/{after[2]['pid']}/kill")
    for one in after[1:]:
        assert sandbox.get(one["name"])["status"] == one["name"]
        eventually(partial(gone, int(one["stdout"])))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("exit 0", ("completed", 0, None)),
        ("exit 7", ("failed", 7, None)),
        ("kill -TERM $$", ("failed", -1, "SIGTERM")),
    ],
)
def test_g14_an_exit_after_the_restart(
    sandbox: Sandbox, tmp_path: Path, command: str, expected: tuple[str, int, str | None]
) -> None:
    """Exact where the kernel tells it to who is not the parent, else said to be unknown."""
    os.mkfifo(tmp_path / "gate")
    sandbox.run(f"read line < {tmp_path}/gate; {command}", name="x")
    sandbox.restart()
    (tmp_path / "gate").write_text("\n")
    ended = sandbox.wait("x")
    outcome = (ended["status"], ended["exitCode"], ended["signal"])
    assert outcome == (expected if kernel_tells(ended) else ("failed", -1, None))


@pytest.mark.parametrize("restarts", [0, 1])
def test_g14_an_end_while_no_daemon_ran(sandbox: Sandbox, tmp_path: Path, restarts: int) -> None:
    """Unknown, and so a failure: the policy applies."""
    os.mkfifo(tmp_path / "gate")
    process = sandbox.run(
        f"test -e {tmp_path}/again && exit 0; : > {tmp_path}/again; read line < {tmp_path}/gate",
        name="x",
        restartOnFailure=True,
        maxRestarts=restarts,
    )
    eventually((tmp_path / "again").exists)
    sandbox.end()
    (tmp_path / "gate").write_text("\n")
    eventually(partial(gone, int(process["pid"])))
    lingers = read_stat(int(process["pid"])) is not None  # its new parent has not asked yet
    sandbox.start()
    ended = sandbox.wait("x")
    if restarts and not lingers:
        assert (ended["status"], ended["restartCount"], ended["exitKnown"]) == (
            "completed",
            1,
            True,
        )
        assert "Process failed with exit code -1. Attempting restart 1/1" in ended["stdout"]
    elif not lingers:
        assert (ended["status"], ended["exitCode"]) == ("failed", -1)
        assert not ended["exitKnown"]


def test_g14_killed_in_a_restart_pause(sandbox: Sandbox) -> None:
    """The restart is not counted twice, the restarts go on, and it can be stopped."""
    sandbox.run("echo run; exit 5", name="r", restartOnFailure=True, maxRestarts=3)
    eventually(lambda: sandbox.get("r")["restartCount"] == 1)
    sandbox.end()
    sandbox.start()
    assert sandbox.get("r")["restartCount"] == 1
    ended = sandbox.wait("r")
    notices = [
        f"\n[Process failed with exit code 5. Attempting restart {number}/3...]\nrun\n"
        for number in (1, 2, 3)
    ]
    assert ended["stdout"] == "run\n" + "".join(notices)
    assert (ended["restartCount"], ended["exitCode"], ended["status"]) == (3, 5, "failed")

    sandbox.run("exit 5", name="loop", restartOnFailure=True, maxRestarts=-1)
    eventually(lambda: sandbox.get("loop")["restartCount"] == 1)
    sandbox.restart()
    sandbox.call("DELETE", "/process/loop")
    assert sandbox.get("loop")["status"] == "stopped"


def test_g14_more_than_the_pipe_holds(sandbox: Sandbox, tmp_path: Path) -> None:
    """5 MB written while no daemon runs: the writer waits, and not a byte is lost."""
    os.mkfifo(tmp_path / "gate")
    process = sandbox.run(
        f"read line < {tmp_path}/gate; seq 1 700000; echo done >&2; exit 6", name="big"
    )
    sandbox.end()
    (tmp_path / "gate").write_text("\n")
    (pipe,) = (tmp_path / "state").glob("*/runs/*/stdout.pipe")
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        full = 65536 if os.geteuid() else MIB
        eventually(lambda: pending_bytes(reader.fileno()) > full - 8192)
    assert read_stat(int(process["pid"])) is not None
    sandbox.start()
    lines = sandbox.stream("big")
    assert lines["stdout"] == [b"%d\n" % number for number in range(1, 700_001)]
    assert lines["stderr"] == [b"done\n"]
    ended = sandbox.wait("big")
    assert not kernel_tells(ended) or ended["exitCode"] == 6


def test_g14_a_stop_is_carried_out_by_the_next(sandbox: Sandbox) -> None:
    """SIGTERM was ignored, the daemon died in the grace: SIGKILL still comes."""
    sandbox.end()
    sandbox.variables["SANDBOX_STOP_GRACE_SECONDS"] = "4"
    sandbox.start()
    sandbox.run("trap '' TERM; echo ready; while :; do sleep 0.1; done", name="deaf")
    eventually(lambda: sandbox.get("deaf")["stdout"] == "ready\n")
    reply = sandbox.call("DELETE", "/process/deaf")
    assert (reply["status"], reply["stopping"]) == ("running", True)
    sandbox.variables["SANDBOX_STOP_GRACE_SECONDS"] = "1"
    sandbox.restart()
    ended = sandbox.wait("deaf")
    assert ended["status"] == "stopped"
    assert not kernel_tells(ended) or ended["signal"] == "SIGKILL"


def test_g14_a_client_that_waits_is_cut_and_asks_again(sandbox: Sandbox) -> None:
    """A held wait, a wait for ports, a stdin and a stream do not keep the daemon from ending."""
    sandbox.run("echo up; exec sleep 600", name="x", stdin=True)
    cut: list[str] = []

    def ask(method: str, path: str, body: object = None) -> None:
        try:
            with sandbox.open(method, path, body) as response:
                while response.read1():
                    pass
        except (http.client.HTTPException, OSError) as exc:
            cut.append(f"{path} {type(exc).__name__}")

    requests: list[tuple[str, str, object]] = [
        ("GET", "/process/x/wait?timeout=60", None),
        ("GET", "/process/x/logs/stream", None),
        ("POST", "/process/x/stdin", b"x" * MIB),
        ("POST", "/process", {"command": "sleep 600", "name": "y", "waitForPorts": [1]}),
        ("POST", "/process", {"command": "sleep 600", "name": "z", "waitForCompletion": True}),
    ]
    threads = [threading.Thread(target=ask, args=arguments) for arguments in requests]
    for thread in threads:
        thread.start()
    names = ["x", "y", "z"]
    eventually(lambda: sorted(one["name"] for one in sandbox.call("GET", "/process")) == names)
    began = time.monotonic()
    sandbox.end(signal.SIGTERM)
    assert time.monotonic() - began < 5
    for thread in threads:
        thread.join(5)
    assert len(cut) == len(requests), cut
    sandbox.start()
    assert sorted(one["name"] for one in sandbox.call("GET", "/process")) == names
    for name in names:
        assert sandbox.get(name)["status"] == "running"


def run_many(sandbox: Sandbox, worker: int, answered: dict[str, Json]) -> None:
    """One command after the other, until the daemon is gone."""
    for number in count():
        name = f"w{worker}-{number}"
        try:
            answered[name] = sandbox.run(f"echo {name}", name=name, waitForCompletion=True)
        except (http.client.HTTPException, OSError):
            return


def test_g14_whatever_was_answered_is_known(sandbox: Sandbox) -> None:
    """Killed while many commands start and end: none that a client has seen is lost or half."""
    answered: dict[str, Json] = {}
    workers = [
        threading.Thread(target=run_many, args=(sandbox, number, answered)) for number in range(4)
    ]
    for worker in workers:
        worker.start()
    eventually(lambda: len(answered) > 100)
    sandbox.end()
    for worker in workers:
        worker.join(10)
    sandbox.start()
    known = {one["name"]: one for one in sandbox.call("GET", "/process")}
    assert {name: known[name] for name in answered} == answered
    assert not [line for line in sandbox.said() if "record" in line or "lost" in line]
    for name in known.keys() - answered.keys():
        sandbox.wait(name)


@ENDS
def test_g14_stdin_goes_on(sandbox: Sandbox, end: signal.Signals) -> None:
    """Its reader notices nothing; the next daemon writes on, and its end is still a client's."""
    sandbox.run("cat; echo ended; exec sleep 600", name="x", stdin=True)
    said = ""
    for line in ("first\n", "second\n", "third\n"):
        sandbox.call("POST", "/process/x/stdin", line.encode())
        said += line
        eventually(lambda: sandbox.get("x")["stdout"] == said)  # noqa: B023 - it is called here
        sandbox.restart(end)
        assert sandbox.get("x")["stdin"] is True
    sandbox.call("DELETE", "/process/x/stdin")
    eventually(lambda: sandbox.get("x")["stdout"] == said + "ended\n")
    sandbox.restart(end)
    assert sandbox.get("x")["stdin"] is False
    error = sandbox.call("POST", "/process/x/stdin", b"more\n", 409)["error"]
    assert error == "process x has no open stdin: it was closed"
    sandbox.call("DELETE", "/process/x/stdin")


def test_the_sandbox_stays_awake_for_the_living(sandbox: Sandbox, tmp_path: Path) -> None:
    """After a crash `=0` and a `+` for each that lives; the timer of before goes on."""
    scale = tmp_path / "scale"
    sandbox.end()
    sandbox.variables["BLAXEL_SCALE_FILE"] = str(scale)
    sandbox.start()
    assert scale.read_bytes() == b"=0"
    sandbox.run("exec sleep 600", name="timed", keepAlive=True, timeout=3)
    eventually(lambda: scale.read_bytes() == b"+0")
    scale.write_bytes(b"=1")
    sandbox.restart()
    eventually(lambda: scale.read_bytes() == b"+0")
    assert sandbox.get("timed")["keepAlive"] is True
    ended = sandbox.wait("timed")
    assert (ended["status"], ended["timedOut"], ended["keepAlive"]) == ("killed", True, False)
    age_ms = ended["completedAtMs"] - ended["startedAtMs"]
    assert 2900 <= age_ms < 6000
    eventually(lambda: scale.read_bytes() == b"-0")
    sandbox.restart()
    assert scale.read_bytes() == b"=0"

    sandbox.end()
    sandbox.variables["BL_DISABLE_KEEPALIVE"] = "true"
    scale.write_bytes(b"#9")
    sandbox.start()
    assert scale.read_bytes() == b"=0"
    sandbox.run("true", 400, keepAlive=True)


@pytest.mark.parametrize("variable", ["SANDBOX_LOG_DIR", "SANDBOX_STATE_FILE"])
def test_two_daemons_that_share_a_directory(
    start_daemon: StartDaemon, tmp_path: Path, variable: str
) -> None:
    """The second one runs from memory and says so; nothing of the first is touched, not even by a
    start while the first does not run."""
    shared = tmp_path / "shared" / "place"
    first, second = Sandbox(start_daemon), Sandbox(start_daemon)
    first.variables[variable] = second.variables[variable] = str(shared)
    first.start()
    first.run("echo kept; exit 3", name="over", waitForCompletion=True)
    first.run("echo alive; exec sleep 600", name="alive")
    second.start()
    assert any("in use by another daemon" in line for line in second.said())
    assert second.run("echo mine", waitForCompletion=True)["stdout"] == "mine\n"
    assert second.call("GET", "/process")[-1]["stdout"] == "mine\n"
    first.end()
    second.restart()
    second.end()
    first.start()
    assert [one["name"] for one in first.call("GET", "/process")] == ["over", "alive"]
    assert (first.get("over")["stdout"], first.get("over")["exitCode"]) == ("kept\n", 3)
    assert (first.get("alive")["stdout"], first.get("alive")["status"]) == ("alive\n", "running")
    where = shared if variable == "SANDBOX_LOG_DIR" else shared.with_name("place.d")
    assert len(list(where.glob("*-*"))) >= 2
