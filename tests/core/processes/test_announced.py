"""Runs are announced before they begin: a daemon that dies then leaves nothing that the next one
does not know, and nothing is started twice."""

import errno
import json
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest

from sandbox_api.core.processes import Process, Status
from sandbox_api.errors import FailedError
from tests.core.processes.conftest import Engine, Successor, found, record, text

Eventually = Callable[..., Awaitable[Any]]


@pytest.fixture
def die_before_save(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's daemon dies right after it has started a child: it writes no record of it."""
    records = engine.processes._records
    write = records._write

    def announce_only(process: Process, child_pid: int, child_start: int) -> None:
        if not child_pid:
            write(process, child_pid, child_start)

    monkeypatch.setattr(records, "_write", announce_only)


@pytest.mark.usefixtures("die_before_save")
async def test_g14_killed_between_a_start_and_its_record(
    engine: Engine, successor: Successor, eventually: Eventually
) -> None:
    """The next daemon knows the command all the same, under its name, and its pid."""
    command = "setsid sleep 60 & echo begun; sleep 0.3; echo more; exit 3"
    before = await engine.start(command, name="x")
    await eventually(lambda: text(before.output) == b"begun\n")
    after = await successor()
    process = found(after, "x")
    assert (process.pid, process.running, process.child.pid) == (before.pid, True, before.pid)
    assert await after.processes.wait(process, 5)
    assert (process.exit_code, text(process.output)) == (3, b"begun\nmore\n")
    await after.processes.kill("x")


@pytest.mark.usefixtures("die_before_save")
async def test_g14_what_never_began_is_not_listed(engine: Engine, successor: Successor) -> None:
    """Nobody was told of it, and nothing of it is left on disk."""
    await engine.run("true", name="x")
    after = await successor()
    assert not after.processes.list()
    assert not list(engine.records.iterdir())
    assert not [path for path in engine.directory.iterdir() if path.is_dir()]


@pytest.mark.usefixtures("short_pause")
async def test_g14_killed_between_a_restart_and_its_record(
    engine: Engine, successor: Successor, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """The command runs once, not twice: the next daemon finds the run that has begun."""
    process = await engine.start(
        "echo run; test -e again && exec sleep 60; touch again; exit 1",
        name="x", working_dir=str(engine.directory.parent), restart_on_failure=True, max_restarts=5,
    )  # fmt: skip
    announce = engine.processes._records.announce

    def announce_and_die(process: Process) -> None:
        announce(process)
        monkeypatch.setattr(engine.processes._records, "_write", lambda *_: None)

    monkeypatch.setattr(engine.processes._records, "announce", announce_and_die)
    await eventually(lambda: text(process.output).count(b"run\n") == 2)
    after = await successor()
    again = found(after, "x")
    assert (again.child.pid, again.restarting, again.running) == (process.child.pid, False, True)
    assert (again.pid, again.restart_count) == (process.pid, 1)
    assert text(again.output).count(b"run\n") == 2


async def test_a_record_of_any_size(engine: Engine, successor: Successor) -> None:
    """One that fits into a page, one that does not, and one that gets shorter."""
    before = [await engine.start("exec sleep 60 #" + "x" * size) for size in (1, 3000, 9000)]
    before.append(await engine.start("exec sleep 60", env={"A": "x" * 3000}))
    for process in before:
        saved = json.loads(record(engine, process).read_bytes())
        assert (saved["child_pid"], saved["pid"]) == (process.pid, process.pid)
    await engine.processes.kill(before[3].name)
    after = await successor()
    for process in before[:3]:
        again = found(after, process.name)
        assert (again.spec, again.child.pid, again.running) == (process.spec, process.pid, True)
    assert found(after, before[3].name).status is Status.KILLED


async def test_a_start_that_fails_leaves_nothing(engine: Engine) -> None:
    """No record, no directory."""
    refused = patch("subprocess.Popen", side_effect=OSError(errno.EAGAIN, "no more"))
    with refused, pytest.raises(FailedError, match="failed to start process: fork/exec"):
        await engine.start("true", name="x")
    assert not list(engine.records.iterdir())
    assert not [path for path in engine.directory.iterdir() if path.is_dir()]
