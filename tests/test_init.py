"""The daemon as the parent of orphans: PID 1, subreaper, and kills that take everything."""

import http.client
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox_api.core.processes import holding
from sandbox_api.core.processes.hierarchy import own_directory
from sandbox_api.core.processes.tree import all_stats, read_children, read_stat
from tests.serving import free_port

StartDaemon = Callable[..., SimpleNamespace]
CAP_SYS_RESOURCE = 24
PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def call(daemon: SimpleNamespace, method: str, path: str, **body: object) -> Any:  # noqa: ANN401
    """A reply of the daemon's, as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    connection.request(method, path, json.dumps(body))
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    assert reply.status == 200, text
    return json.loads(text)


def run(daemon: SimpleNamespace, command: str, **body: object) -> Any:  # noqa: ANN401 - JSON is any
    """The reply to a command that was waited for."""
    return call(daemon, "POST", "/process", command=command, waitForCompletion=True, **body)


def until(check: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pid_1(start_daemon: StartDaemon) -> SimpleNamespace:
    """A daemon that is the first process of its own PID namespace; its pid outside is `pid`."""
    try:
        probe = subprocess.run([*PID_NAMESPACE, "true"], capture_output=True, check=False)
    except OSError as exc:
        pytest.skip(f"no PID namespace can be made: {exc}")
    if probe.returncode:
        pytest.skip(f"no PID namespace can be made: {probe.stderr.decode()}")
    daemon = start_daemon(under=PID_NAMESPACE)
    (daemon.pid,) = read_children(daemon.process.pid)
    return daemon


def children(daemon: SimpleNamespace) -> list[int]:
    """Its children, but for the one that holds output."""
    stats = [read_stat(pid) for pid in read_children(daemon.pid)]
    return [stat.pid for stat in stats if stat is not None and stat.name != holding.NAME]


def zombies(daemon: SimpleNamespace) -> list[str]:
    """The dead that nobody has asked for, of those whose parent is the daemon."""
    stats = [read_stat(pid) for pid in read_children(daemon.pid)]
    return [stat.name for stat in stats if stat is not None and stat.dead]


def test_g13_pid_1_with_1000_orphans(pid_1: SimpleNamespace) -> None:
    """They end all at once; 1 s later none is a zombie, and every status was exact meanwhile."""
    orphans = "mkfifo gate; for i in $(seq 1000); do (read x < gate &) ; done"
    assert run(pid_1, orphans, name="orphans")["status"] == "completed"
    until(lambda: len(children(pid_1)) == 1000)
    run(pid_1, ": > gate")  # every one of them reads an end of file
    for code in range(30):
        reply = run(pid_1, f"sh -c 'exit {code}'")
        assert (reply["exitCode"], reply["exitKnown"]) == (code, True)
    until(lambda: not children(pid_1))
    begin = time.monotonic()
    until(lambda: not zombies(pid_1), 1.0)
    assert time.monotonic() - begin < 1


def test_pid_1_passes_a_sigterm_on(pid_1: SimpleNamespace, tmp_path: Path) -> None:
    """To orphans too. Who ends well is recorded as stopped, not restarted; exit 0 comes at once."""
    trap = "trap 'echo bye > {0}; exit 3' TERM; echo up > {0}; while :; do sleep 0.05; done"
    one, other = tmp_path / "one", tmp_path / "other"
    body = {"restartOnFailure": True, "maxRestarts": 5}
    call(pid_1, "POST", "/process", command=trap.format(one), name="one", **body)
    run(pid_1, f'setsid sh -c "{trap.format(other)}" >/dev/null 2>&1 &')
    until(lambda: one.exists() and other.exists())
    begin = time.monotonic()
    os.kill(pid_1.pid, signal.SIGTERM)
    assert pid_1.process.wait(10) == 0
    assert time.monotonic() - begin < 3
    assert (one.read_text(), other.read_text()) == ("bye\n", "bye\n")
    assert not [line for line in pid_1.log() if line["level"] == "warning"]
    records = [path.read_text() for path in (tmp_path / "state").rglob("*.json")]
    assert any('"stopped"' in record and '"one"' in record for record in records)


def test_g31_pid_1_does_not_wait_for_ever(pid_1: SimpleNamespace) -> None:
    """Who ignores the SIGTERM gets 4 s; exit status 0 within 5 s."""
    call(pid_1, "POST", "/process", command="trap '' TERM; while :; do sleep 1; done")
    begin = time.monotonic()
    os.kill(pid_1.pid, signal.SIGTERM)
    assert pid_1.process.wait(10) == 0
    assert 3.9 < time.monotonic() - begin < 5


@pytest.fixture
def mark() -> Iterator[str]:
    """The argument of a `sleep` that no other test has; whoever is left of it is killed."""
    mark = f"1000.{secrets.randbelow(10**9):09}"
    yield mark
    for pid in sleepers(mark):
        os.kill(pid, signal.SIGKILL)


def sleepers(mark: str) -> list[int]:
    """Who sleeps with this argument."""
    found = []
    for stat in all_stats():
        try:
            line = Path(f"/proc/{stat.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if line == f"sleep\0{mark}\0".encode():
            found.append(stat.pid)
    return found


needs_groups = pytest.mark.skipif(
    not os.access(own_directory() / "cgroup.procs", os.W_OK),
    reason="control groups (version 2) are not writable here",
)


VISIBLE = (
    "setsid -f sleep {0}",
    "setsid -f sleep {0}; exec sleep {0}",
    "nohup sleep {0} & nohup sleep {0} >/dev/null 2>&1 & sleep 0.1",
    "setsid sh -c 'setsid sleep {0} &' & sleep 0.1",
)
SILENT = "</dev/null >/dev/null 2>&1"
INVISIBLE = (
    f"setsid -f sleep {{0}} {SILENT}",
    f"setsid sh -c 'sleep {{0}} {SILENT} &'; exec sleep {{0}}",
    f"sleep 0.2; setsid sh -c 'sleep {{0}} {SILENT} &'",
)


@pytest.mark.parametrize(
    "commands", [VISIBLE, pytest.param(INVISIBLE, marks=needs_groups)], ids=["visible", "invisible"]
)
def test_g11_nobody_escapes(start_daemon: StartDaemon, mark: str, commands: Sequence[str]) -> None:
    """Own session, no parent, no output: dead within 1 s of a kill, and gone after a stop."""
    daemon = start_daemon()
    for command in commands:
        for stop in {False, "exec" in command}:  # an ended process is not stopped, but killed
            call(daemon, "POST", "/process", command=command.format(mark), name="p")
            wanted = command.count("{0}")
            until(lambda wanted=wanted: len(sleepers(mark)) == wanted)  # type: ignore[misc]
            if "exec" not in command:
                until(lambda: call(daemon, "GET", "/process/p")["status"] == "completed")
            begin = time.monotonic()
            reply = call(daemon, "DELETE", "/process/p" if stop else "/process/p/kill")
            assert time.monotonic() - begin < 1
            assert reply["survivors"] == []
            until(lambda: not sleepers(mark), 2.0 if stop else 0.01)


@needs_groups
def test_g11_after_the_daemon_was_killed(start_daemon: StartDaemon, mark: str) -> None:
    """The next one still knows what belongs to the process."""
    flags = ("-p", str(free_port()))
    first = start_daemon(*flags)
    command = f"sleep 0.2; setsid sh -c 'sleep {mark} {SILENT} &'; exec sleep {mark}"
    call(first, "POST", "/process", command=command, name="p")
    until(lambda: len(sleepers(mark)) == 2)
    first.process.kill()
    first.process.wait()
    second = start_daemon(*flags)
    call(second, "DELETE", "/process/p/kill")
    assert sleepers(mark) == []


def test_the_oom_killer_spares_the_daemon(start_daemon: StartDaemon, mark: str) -> None:
    """-500 for itself where it may, 500 for who it starts, and soon for who was forked at once."""
    daemon = start_daemon()
    proc = Path(f"/proc/{daemon.process.pid}")
    capabilities = int(proc.joinpath("status").read_text().partition("CapEff:")[2].split()[0], 16)
    if capabilities & 1 << CAP_SYS_RESOURCE:
        assert proc.joinpath("oom_score_adj").read_text() == "-500\n"
    command = f"sleep {mark} & exec sleep {mark}"
    call(daemon, "POST", "/process", command=command, name="p")

    def scores() -> list[str]:
        return [Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in sleepers(mark)]

    until(lambda: scores() == ["500\n", "500\n"])


def test_orphans_become_its_children(start_daemon: StartDaemon, mark: str) -> None:
    """Not those of whoever started the daemon; and they are no zombies when they end."""
    daemon = start_daemon()
    run(daemon, f"setsid -f sleep {mark}")
    until(lambda: sleepers(mark))  # it returns when it has forked
    (orphan,) = sleepers(mark)
    stat = read_stat(orphan)
    assert stat is not None
    assert stat.parent == daemon.process.pid
    os.kill(orphan, signal.SIGKILL)
    until(lambda: read_stat(orphan) is None)
