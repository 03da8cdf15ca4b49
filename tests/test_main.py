"""The process: flags, ports, signals, its log, and what it gives its children."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox_api import __version__
from sandbox_api.__main__ import bind
from tests.serving import DAEMON

StartDaemon = Callable[..., SimpleNamespace]


def run(*flags: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The daemon where it ends by itself."""
    command = [*DAEMON, *flags]
    environment = {"PATH": os.environ["PATH"], "HOME": "/", **variables}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=20, check=False
    )


def get(daemon: SimpleNamespace, path: str, host: str = "127.0.0.1", **headers: str) -> int:
    """The status of a GET."""
    url = f"http://{host}:{daemon.port}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as a:
            return int(a.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def wait_for_log(daemon: SimpleNamespace, text: str) -> dict[str, object]:
    """The first line of the log whose message begins so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in daemon.log():
            if str(line["msg"]).startswith(text):
                return dict(line)
        time.sleep(0.01)
    raise AssertionError(daemon.path.read_text())


def test_help_and_version() -> None:
    """On stdout, exit status 0."""
    shown = run("-h")
    assert shown.returncode == 0
    assert "-token-file" in shown.stdout
    told = rf"sandbox-api {re.escape(__version__)} \(commit \S+, built \S+\)\n"
    assert re.fullmatch(told, run("--version").stdout)


@pytest.mark.parametrize("flags", [["-nope"], ["-p", "x"], ["-c"]])
def test_a_bad_command_line_shows_the_usage(flags: list[str]) -> None:
    """On stderr, exit status 2."""
    ended = run(*flags)
    assert ended.returncode == 2
    assert "usage: sandbox-api" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["-user", "nosuchuser"], {}, 'Invalid --user="nosuchuser"'),
        (["-user", "root"], {}, "resolves to uid 0"),
        (["-token-file", "/nonexistent"], {}, "/nonexistent"),
        ([], {"SANDBOX_MAX_JSON_BYTES": "x"}, "SANDBOX_MAX_JSON_BYTES"),
        (["-c", "true", "-p", "0"], {"SHELL": "/no/shell"}, "/no/shell"),
    ],
)
def test_what_cannot_work_ends_at_start(
    flags: list[str], variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    """One fatal line that names it, exit status 1."""
    ended = run(*flags, SANDBOX_STATE_DIR=str(tmp_path), **variables)
    assert ended.returncode == 1, ended.stderr
    line = json.loads(ended.stderr.splitlines()[-1])
    assert line["level"] == "fatal"
    assert said in line["msg"]


def test_a_port_in_use_ends_it_before_any_side_effect(tmp_path: Path) -> None:
    """The reference's text; the `-c` command never ran, no state was written."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mark, state = tmp_path / "mark", tmp_path / "state"
        command = ["-p", str(port), "-c", f"touch {mark}"]
        ended = run(*command, SANDBOX_STATE_DIR=str(state))
    assert ended.returncode == 1
    text = f"Failed to start server: listen tcp :{port}: bind: address already in use"
    assert json.loads(ended.stderr.splitlines()[-1])["msg"] == text
    assert not mark.exists()
    assert not state.exists()


def test_it_listens_on_both_families(start_daemon: StartDaemon) -> None:
    """IPv4 and, where the machine has it, IPv6."""
    daemon = start_daemon()
    assert get(daemon, "/health") == 200
    if socket.has_dualstack_ipv6():
        assert get(daemon, "/health", host="[::1]") == 200


def test_without_ipv6_it_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have IPv6 compiled out or switched off."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind(0) as listener:
        assert listener.family == socket.AF_INET


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g31_a_signal_ends_it(start_daemon: StartDaemon, number: signal.Signals) -> None:
    """Exit status 0 within 5 s, with an idle connection and half a request open."""
    daemon = start_daemon()
    with socket.create_connection(("127.0.0.1", daemon.port)) as half:
        half.sendall(b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        with socket.create_connection(("127.0.0.1", daemon.port)):
            assert get(daemon, "/health") == 200
            started = time.monotonic()
            daemon.process.send_signal(number)
            assert daemon.process.wait(10) == 0
    assert time.monotonic() - started < 5


def test_g31_the_stream_of_a_live_process_is_cut(start_daemon: StartDaemon) -> None:
    """A clean end would tell the client that the process finished; it lives on."""
    daemon = start_daemon()
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    connection.request("POST", "/process", json.dumps({"command": "echo up; exec sleep 60"}))
    pid = int(json.load(connection.getresponse())["pid"])
    try:
        connection.request("GET", f"/process/{pid}/logs/stream")
        stream = connection.getresponse()
        assert stream.readline() == b"stdout:up\n"
        daemon.process.terminate()
        with stream, pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            stream.read()
        assert daemon.process.wait(5) == 0
    finally:
        connection.close()
        os.kill(pid, signal.SIGKILL)  # raises where it did not live on


def test_the_startup_command(start_daemon: StartDaemon) -> None:
    """It runs in / with the launch environment; its output is raw in the log, its end a line."""
    daemon = start_daemon("-c", "echo in $PWD with $MARK; echo err >&2; exit 4", env={"MARK": "m"})
    assert wait_for_log(daemon, "Command exited with error: exit status 4")["level"] == "error"
    assert "in / with m\nerr\n" in daemon.path.read_text()
    assert wait_for_log(start_daemon("-command", "true"), "Command completed successfully")


def test_the_startup_command_outlives_the_daemon(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """As every child does."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    daemon = start_daemon("-c", f"read line < {fifo}; echo $line > {fifo}.answer; kill $$")
    daemon.process.terminate()
    assert daemon.process.wait(10) == 0
    fifo.write_text("alive\n")
    deadline = time.monotonic() + 10
    while not (answer := Path(f"{fifo}.answer")).exists() or not answer.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert answer.read_text() == "alive\n"


@pytest.mark.parametrize("by_file", [False, True])
def test_g30_the_token_is_nowhere_to_be_found(
    start_daemon: StartDaemon, tmp_path: Path, *, by_file: bool
) -> None:
    """Not in /proc/PID/environ, not in a child's environment, not in the log."""
    token = "hush-6ab1"
    (tmp_path / "token").write_text(token)
    flags = ["--token-file", str(tmp_path / "token")] if by_file else []
    variables = {} if by_file else {"SANDBOX_API_TOKEN": token, "NEXT": "stays"}
    look = "env; tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/cmdline"
    daemon = start_daemon(*flags, "-c", look, env=variables)
    wait_for_log(daemon, "Command completed")
    assert get(daemon, "/") == 401
    assert get(daemon, f"/?token={token}") == 200
    assert get(daemon, "/", Authorization=f"Bearer {token}") == 200
    assert get(daemon, "/", Authorization="Bearer wrong-token") == 401
    daemon.process.terminate()
    daemon.process.wait(10)
    text = daemon.path.read_text()
    assert token not in text
    assert "SANDBOX_API_TOKEN" not in text
    assert by_file or text.count("NEXT=stays") == 2


def test_every_line_of_the_log_is_json(start_daemon: StartDaemon) -> None:
    """Start, requests, bad requests, end."""
    daemon = start_daemon()
    get(daemon, "/health")
    get(daemon, "/nope?token=x")
    with socket.create_connection(("127.0.0.1", daemon.port)) as garbage:
        garbage.sendall(b"\x16\x03\r\n\r\n")
        garbage.recv(1000)
    daemon.process.terminate()
    assert daemon.process.wait(10) == 0
    lines = [json.loads(line) for line in daemon.path.read_text().splitlines()]
    assert all({"level", "msg", "time"} <= set(line) for line in lines)
    assert [line["status"] for line in lines if "status" in line] == [200, 404, 400]


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """stderr is a full pipe; requests are answered and the daemon ends in time."""
    read_end, write_end = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = SimpleNamespace(port=port)
    command = [*DAEMON, "-p", str(port)]
    environment = {"PATH": os.environ["PATH"], "SANDBOX_STATE_DIR": str(tmp_path)}
    process = subprocess.Popen(command, stderr=write_end, env=environment, cwd=tmp_path)
    try:
        os.close(write_end)
        assert os.read(read_end, 1)  # it listens; from here on nobody reads
        for _ in range(100):
            assert get(daemon, "/health?" + "x" * 8000) == 200
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(read_end)


def test_signals_that_a_shell_made_it_ignore_work_in_its_children(
    start_daemon: StartDaemon,
) -> None:
    """An entrypoint runs it in the background; Ctrl-C and Ctrl-\\ must work in terminals."""
    ignoring = ("sh", "-c", 'trap "" INT QUIT HUP TSTP USR1; exec "$@"', "sh")
    daemon = start_daemon(under=ignoring)
    request = {"command": "grep SigIgn /proc/self/status", "waitForCompletion": True}
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    with closing(connection):
        connection.request("POST", "/process", json.dumps(request))
        reply = json.load(connection.getresponse())
    assert reply["stdout"].split() == ["SigIgn:", "0" * 16]
