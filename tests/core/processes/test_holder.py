"""Who holds the pipes when the daemon is gone: both ways to start it, and what it leaves."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from sandbox_api.core.processes import holding
from sandbox_api.core.processes.holder import Holder
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.storage import RunDirectory
from sandbox_api.core.processes.tree import read_stat
from tests.core.processes.conftest import Engine, OpenEngine, text

Eventually = Callable[..., Awaitable[object]]


def gone(pid: int) -> bool:
    """Whether it has ended."""
    stat = read_stat(pid)
    return stat is None or stat.dead


def pipes_of(pid: int) -> int:
    """How many pipes of runs a process has open."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.endswith(".pipe") for link in links)


# The one-file build finds out by its name what it is; a script that is run has another.
BUILT_FILE = f"""#!{sys.executable}
import sys
from sandbox_api.__main__ import main
sys.argv[0] = "output-holder"
sys.exit(main())
"""


@pytest.fixture(params=["source", "file", "fork"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A program of its own, from its source or in the one-file build; a fork where the daemon may
    not run one any more."""
    if request.param == "file":
        program = tmp_path / "sandbox-api"
        program.write_text(BUILT_FILE)
        program.chmod(0o755)
        monkeypatch.setattr(holding, "__file__", "/nonexistent/holding.py")
        monkeypatch.setattr("sandbox_api.core.processes.holder.OWN_PROGRAM", str(program))
    if request.param == "fork":
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    return str(request.param)


async def started(engine: Engine) -> tuple[Holder, int]:
    """The holder of an engine and its pid, once it holds a first run that lasts."""
    holder = engine.processes._holder
    assert holder is not None
    await engine.start("exec sleep 60", name="first")
    holder.flush()
    assert holder.pid is not None
    return holder, holder.pid


async def hand_over(open_engine: OpenEngine, command: str, eventually: Eventually) -> bytes:
    """What the next engine has of a command that ends when there is none."""
    engine = await open_engine(host=Host(holds_pipes=True))
    gate = engine.directory.parent / "gate"
    os.mkfifo(gate)
    process = await engine.start(command.format(gate=gate), name="x")
    assert engine.processes._holder is not None
    holder = engine.processes._holder.path
    engine.processes.close()
    assert holder.exists()
    await asyncio.to_thread(gate.write_text, "\n")
    runs = engine.directory / process.output.run
    await eventually(lambda: list(runs.glob("stdout.rest-*")))
    await asyncio.to_thread(os.waitpid, process.pid, 0)
    after = await open_engine(host=Host(holds_pipes=True))
    found = after.processes.find("x")
    assert found is not None
    assert await after.processes.wait(found, 5)
    assert not holder.exists()
    assert not list(runs.glob("*.rest-*"))
    return text(found.output)


@pytest.mark.usefixtures("way")
async def test_g14_what_stands_in_the_pipes(
    open_engine: OpenEngine, eventually: Eventually
) -> None:
    """It comes after what was read before."""
    command = "echo one; read line < {gate}; echo two; echo three >&2"
    assert await hand_over(open_engine, command, eventually) == b"one\ntwo\nthree\n"


@pytest.mark.usefixtures("way")
async def test_g14_as_much_as_a_pipe_holds(open_engine: OpenEngine, eventually: Eventually) -> None:
    """Byte for byte."""
    command = "read line < {gate}; head -c 1000000 /dev/zero | tr '\\0' x"
    assert await hand_over(open_engine, command, eventually) == b"x" * 1_000_000


async def test_a_rest_is_taken_once(tmp_path: Path, eventually: Eventually) -> None:
    """A daemon that dies after it took some of it, and before it removed the file, does no harm."""
    output = Output(directory := RunDirectory.create(tmp_path, None))
    os.write(output.write_fds[0], b"before ")
    await eventually(lambda: output.logs[0].size == 7)
    output.close()
    run = tmp_path / directory.run
    for taken in (0, 3, 5, 5):
        (run / "stdout.rest-7").write_bytes(b"after")
        (run / "stdout.log").write_bytes(b"before after"[: 7 + taken])
        output = Output(RunDirectory(run, None), restored=True)
        assert text(output) == b"before after"
        assert not (run / "stdout.rest-7").exists()
        output.close()


async def test_a_rest_of_a_log_that_is_gone(tmp_path: Path) -> None:
    """What there is is shown; a file of somebody else's is no rest."""
    output = Output(directory := RunDirectory.create(tmp_path, None))
    output.close()
    run = tmp_path / directory.run
    (run / "stderr.rest-700").write_bytes(b"after")
    (run / "stdout.rest-x").write_bytes(b"no")
    output = Output(RunDirectory(run, None), restored=True)
    assert text(output) == b"after"
    output.close()


def test_a_run_that_was_removed(tmp_path: Path) -> None:
    """Its output is wanted by nobody; no directory comes back."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"x")
    os.close(write_fd)
    runs_fd = os.open(tmp_path, os.O_RDONLY)
    holding.save_rest("gone", "stdout", read_fd, runs_fd)
    assert list(tmp_path.iterdir()) == []
    for fd in (read_fd, runs_fd):
        os.close(fd)


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken from the pipe is written when there is room, in pieces if need be."""
    (tmp_path / "run").mkdir()
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"0123456789")
    os.close(write_fd)
    runs_fd = os.open(tmp_path, os.O_RDONLY)
    write, full = os.write, [True, False, True, False]

    def write_some(fd: int, data: bytes) -> int:
        if full and full.pop():
            raise OSError(28, "No space left on device")
        return write(fd, data[:4])

    monkeypatch.setattr(holding, "RETRY_S", 0.0)
    monkeypatch.setattr(os, "write", write_some)
    holding.save_rest("run", "stdout", read_fd, runs_fd)
    assert (tmp_path / "run" / "stdout.rest-0").read_bytes() == b"0123456789"
    for fd in (read_fd, runs_fd):
        os.close(fd)


async def test_many_starts_at_once(open_engine: OpenEngine, eventually: Eventually) -> None:
    """More than its socket takes: all are held in the end, and let go."""
    engine = await open_engine(host=Host(holds_pipes=True))
    holder, pid = await started(engine)
    await engine.processes.kill("first")
    await eventually(lambda: pipes_of(pid) == 0)
    os.kill(pid, signal.SIGSTOP)
    assert holder._control is not None
    holder._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    processes = [await engine.start("exec sleep 60") for _ in range(20)]
    holder.flush()
    assert 0 < len(holder._given) < 20
    os.kill(pid, signal.SIGCONT)
    await eventually(lambda: len(holder._given) == 20)
    await eventually(lambda: pipes_of(pid) == 40)
    for process in processes:
        await engine.processes.kill(process.name)
    await eventually(lambda: not holder._given)
    assert not holder._soon
    holder._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    process = await engine.start("exit 1", restart_on_failure=True, max_restarts=1)
    await eventually(lambda: process.restart_count == 1)
    assert await engine.processes.wait(process, 5)
    await eventually(lambda: not holder._given)


async def test_its_end_is_told(
    open_engine: OpenEngine, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has killed it: one line says what that means; commands run."""
    engine = await open_engine(host=Host(holds_pipes=True))
    _, pid = await started(engine)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: "the process that holds pipes has ended" in caplog.text)
    assert (await engine.run("exit 3")).exit_code == 3


async def test_it_ends_without_a_word(
    open_engine: OpenEngine, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """With its daemon, where nothing is left to hold."""
    engine = await open_engine(host=Host(holds_pipes=True))
    _, pid = await started(engine)
    await engine.processes.kill("first")
    engine.processes.close()
    await eventually(lambda: gone(pid))
    assert caplog.text == ""


async def test_nobody_holds_for_a_short_run(open_engine: OpenEngine) -> None:
    """A daemon that runs nothing, or nothing that lasts, is alone: in memory and at its start."""
    engine = await open_engine(host=Host(holds_pipes=True))
    holder = engine.processes._holder
    assert holder is not None
    holder.flush()
    assert holder.pid is None
    assert not holder.path.exists()


async def test_it_is_tried_again(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it cannot be started commands run, one line says what that means; a later run may
    find the machine in a better state."""
    engine = await open_engine(host=Host(holds_pipes=True))
    holder = engine.processes._holder
    assert holder is not None
    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", Mock(side_effect=BlockingIOError(11, "no")))
        full.setattr(os, "fork", Mock(side_effect=BlockingIOError(11, "no")))
        for run in ("a", "b"):
            holder.hold(run, dict)
            holder.flush()
    assert caplog.text.count("what pipes hold when the daemon dies will be lost") == 1
    assert not holder.path.exists()
    await started(engine)
    assert holder._given
