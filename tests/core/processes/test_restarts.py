"""The restart policy: how often, what stays, and that it can be stopped at any moment."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.core.processes import Process, Status
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines
from sandbox_api.errors import InvalidError
from tests.core.processes.conftest import Engine, text

Eventually = Callable[..., Awaitable[Any]]


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts come after 50 ms."""
    set_pause(monkeypatch, 0.05)


def set_pause(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Change the pause between two runs."""
    supervision = importlib.import_module("sandbox_api.core.processes.supervision")

    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", seconds)


def notice(code: int, count: str) -> bytes:
    """What the log says of a restart."""
    return b"\n[Process failed with exit code %d. Attempting restart %s...]\n" % (
        code,
        count.encode(),
    )


@pytest.mark.usefixtures("short_pause")
async def test_it_runs_again_until_the_limit(engine: Engine) -> None:
    """Output of all runs in one log with a notice between; one record, its pid the first one's."""
    process = await engine.start("echo run; exit 5", restart_on_failure=True, max_restarts=2)
    pid = process.pid
    assert await engine.processes.wait(process, 10)
    expected = b"run\n" + notice(5, "1/2") + b"run\n" + notice(5, "2/2") + b"run\n"
    assert text(process.output) == expected
    assert (process.status, process.exit_code, process.restart_count) == (Status.FAILED, 5, 2)
    assert process.pid == pid
    assert engine.processes.list() == [process]


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize(
    ("command", "limit", "restarts"),
    [
        ("exit 0", 3, 0),
        ("exit 1", 0, 0),
        ("kill -9 $$", 1, 1),
        ("test -e x || { > x; exit 1; }", -1, 1),
    ],
)
async def test_when_it_restarts(
    engine: Engine, tmp_path: Path, command: str, limit: int, restarts: int
) -> None:
    """Only after a failure, also by a signal; 0 is never, negative without limit."""
    process = await engine.run(
        command, restart_on_failure=True, max_restarts=limit, working_dir=str(tmp_path)
    )
    assert process.restart_count == restarts


@pytest.mark.usefixtures("short_pause")
async def test_unlimited_is_named_and_environment_kept(
    engine: Engine, eventually: Eventually
) -> None:
    """`maxRestarts: -1` says `unlimited`; each run has the request's variables."""
    process = await engine.start(
        "echo $A; exit 1", restart_on_failure=True, max_restarts=-1, env={"A": "own"}
    )
    await eventually(lambda: process.restart_count == 3)
    await engine.processes.kill(process.name)
    assert text(process.output).startswith(b"own\n" + notice(1, "1/unlimited") + b"own\n")


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("by", ["pid", "name"])
async def test_g15_a_crash_loop_is_stopped_at_once(
    engine: Engine, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, end: str, by: str
) -> None:
    """Also in the pause between two runs, where it shows running and keeps its name (Q5)."""
    set_pause(monkeypatch, 60)
    process = await engine.start("exit 4", name="loop", restart_on_failure=True, max_restarts=-1)
    await eventually(lambda: process.restart_count == 1)
    assert (process.status, process.exit_code) == (Status.RUNNING, 0)
    with pytest.raises(InvalidError, match="already exists"):
        await engine.start("true", name="loop")
    identifier = str(process.pid) if by == "pid" else "loop"
    async with asyncio.timeout(2):
        await getattr(engine.processes, end)(identifier)
    assert process.status is (Status.STOPPED if end == "stop" else Status.KILLED)
    assert process.exit_code == 4
    assert (await engine.run("true", name="loop")).status is Status.COMPLETED


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_g15_the_current_run_is_the_one_that_is_ended(
    engine: Engine, tmp_path: Path, eventually: Eventually, end: str
) -> None:
    """After a restart the signal goes to the new run, whose pid is another (Q4)."""
    command = "test -e x && exec sleep 60; > x; exit 1"
    process = await engine.start(
        command, restart_on_failure=True, max_restarts=1, working_dir=str(tmp_path)
    )
    await eventually(lambda: process.restart_count == 1 and process.child.pid != process.pid)
    async with asyncio.timeout(2):
        await getattr(engine.processes, end)(str(process.pid))
    assert not process.running
    assert process.exit_code == -1


@pytest.fixture(params=["rmdir {0}", "rmdir {0}; touch {0}"], ids=["vanished", "a file"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A command that makes its own working directory useless, and that directory."""
    directory = tmp_path / "w"
    directory.mkdir()
    return request.param.format(directory) + "; exit 1", str(directory)


@pytest.mark.usefixtures("short_pause")
async def test_g15_a_restart_that_cannot_start(engine: Engine, broken: tuple[str, str]) -> None:
    """It has failed, the log says why, and the engine goes on (Q1, Q2)."""
    command, directory = broken
    process = await engine.run(
        command, working_dir=directory, restart_on_failure=True, max_restarts=1
    )
    assert (process.status, process.exit_code) == (Status.FAILED, 1)
    assert b"\n[Failed to restart process: " in text(process.output)
    assert directory.encode() in text(process.output)
    assert (await engine.run("true")).status is Status.COMPLETED


@pytest.mark.usefixtures("short_pause")
async def test_g02_a_follower_stays_over_restarts(engine: Engine) -> None:
    """Live lines go on with the next run, each once, and end with the last (Q8)."""
    process = await engine.start("echo run; exit 1", restart_on_failure=True, max_restarts=2)
    live = await _follow(process)
    assert live.count(b"stdout:run\n") == 3
    assert live.count(b"Attempting restart") == 2
    assert await _follow(process) == live


async def _follow(process: Process) -> bytes:
    framed = b""
    with Follower(process.output, frame_lines, Unfinished(), flush_lines) as follower:
        async with asyncio.timeout(10):
            while (chunk := await follower.next(5)) is not None:
                framed += chunk
    return framed
