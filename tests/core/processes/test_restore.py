"""What a daemon leaves for the next one: records, and finding everything again by them.

Here the next one is another engine in the same process; tests/e2e/test_g14_survival.py has real
daemons that are killed.
"""

import asyncio
import importlib
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.core.environment import Environment
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes import Directories, Processes, ProcessSpec, Status
from sandbox_api.core.processes.records import Records
from sandbox_api.core.processes.tree import read_stat
from tests.core.processes.conftest import (
    ENVIRONMENT,
    Engine,
    OpenEngine,
    Successor,
    found,
    record,
    text,
)

Eventually = Callable[..., Awaitable[Any]]

MIB = 1 << 20
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def change(path: Path, **values: object) -> None:
    """Change a record, as time or somebody else would."""
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))


def end(pid: int) -> None:
    """Kill a child of ours and take its status."""
    os.kill(pid, 9)
    os.waitpid(pid, 0)


@pytest.fixture
def reap() -> Iterator[list[int]]:
    """Children that an engine let go, and that the next one must not or cannot wait for."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError, ChildProcessError):
            end(pid)


async def test_g14_a_finished_process_is_as_it_was(engine: Engine, successor: Successor) -> None:
    """Code, times, output and its order, what was asked for; but not its environment."""
    before = await engine.run(
        "echo one; sleep 0.05; echo two >&2; sleep 0.05; echo three; exit 3",
        name="over", restart_on_failure=True, env={"TOKEN": "hush"}, max_runtime_s=9,
    )  # fmt: skip
    after = found(await successor(), "over")
    assert after is not before
    same = (
        "name", "pid", "status", "exit_code", "signal", "started_at", "completed_at", "last_exit",
        "working_dir", "directory", "restart_count", "timed_out", "spec",
    )  # fmt: skip
    assert [getattr(after, field) for field in same] == [getattr(before, field) for field in same]
    assert text(after.output) == b"one\ntwo\nthree\n"
    assert after.spec.env == {}
    assert after.ended.is_set()


async def test_g14_the_list_keeps_its_order(engine: Engine, successor: Successor) -> None:
    """Of start, whether they live or not."""
    names = [f"p{number}" for number in range(8)]
    for number, name in enumerate(names):
        await engine.start("exec sleep 60" if number % 3 == 0 else "true", name=name)
    after = await successor()
    assert [process.name for process in after.processes.list()] == names


async def test_g14_a_living_process_goes_on(
    engine: Engine, successor: Successor, eventually: Eventually, tmp_path: Path
) -> None:
    """Its name is taken, its output is complete, its exit is seen; a second time as well."""
    os.mkfifo(tmp_path / "lines")
    process = await engine.start(f"cat {tmp_path / 'lines'}; exit 4", name="loop")
    lines = await asyncio.to_thread(os.open, tmp_path / "lines", os.O_WRONLY)
    os.write(lines, b"one\n")
    await eventually(lambda: text(process.output) == b"one\n")
    middle = await successor()
    assert found(middle, "loop").running
    os.write(lines, b"two\n")
    await eventually(lambda: text(found(middle, "loop").output) == b"one\ntwo\n")
    middle.processes.close()
    os.write(lines, b"three\n")
    after = found(await successor(), "loop")
    os.close(lines)
    assert await middle.processes.wait(after, 5)
    assert text(after.output) == b"one\ntwo\nthree\n"
    assert (after.status, after.exit_code) == (Status.FAILED, 4)


async def test_g14_a_stop_that_was_asked_for_is_carried_out(
    engine: Engine, successor: Successor, eventually: Eventually
) -> None:
    """The grace of the next daemon, then SIGKILL; it was stopped, not killed."""
    process = await engine.start(DEAF, name="deaf")
    await eventually(lambda: text(process.output) == b"ready\n")
    stopping = asyncio.create_task(engine.processes.stop("deaf"))
    await eventually(lambda: process.stopping)
    stopping.cancel()
    after = await successor(stop_grace_s=0.1)
    deaf = found(after, "deaf")
    assert deaf.stopping
    assert await after.processes.wait(deaf, 5)
    assert (deaf.status, deaf.signal) == (Status.STOPPED, "SIGKILL")


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_g14_stop_and_kill_reach_it(engine: Engine, successor: Successor, end: str) -> None:
    """And the name is free afterwards."""
    await engine.start("sleep 60 & exec sleep 60", name="x")
    after = await successor()
    async with asyncio.timeout(3):
        await getattr(after.processes, end)("x")
    expected = Status.STOPPED if end == "stop" else Status.KILLED
    assert found(after, "x").status is expected
    assert (await after.run("true", name="x")).status is Status.COMPLETED


@pytest.mark.usefixtures("short_pause")
async def test_g14_the_policy_goes_on(
    engine: Engine, successor: Successor, eventually: Eventually, tmp_path: Path
) -> None:
    """With the variables of the request; what was counted stays counted."""
    process = await engine.start(
        "echo $MINE; test -e go || sleep 60; exit 1", name="x", working_dir=str(tmp_path),
        restart_on_failure=True, max_restarts=2, env={"MINE": "own"},
    )  # fmt: skip
    await eventually(lambda: text(process.output) == b"own\n")
    after = await successor()
    (tmp_path / "go").touch()
    os.kill(process.pid, 9)
    again = found(after, "x")
    assert await after.processes.wait(again, 5)
    assert (again.status, again.exit_code, again.restart_count) == (Status.FAILED, 1, 2)
    assert text(again.output).count(b"own\n") == 3


async def test_g14_a_pending_restart_is_not_counted_twice(
    engine: Engine, successor: Successor, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon died in the pause: the notice stands there once, and the next run comes."""
    supervision = importlib.import_module("sandbox_api.core.processes.supervision")
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 60)
    process = await engine.start("echo run; exit 1", restart_on_failure=True, max_restarts=1)
    await eventually(lambda: process.restarting)
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 0.05)
    after = await successor()
    again = found(after, process.name)
    assert (again.running, again.restart_count) == (True, 1)
    assert await after.processes.wait(again, 5)
    notice = b"\n[Process failed with exit code 1. Attempting restart 1/1...]\n"
    assert text(again.output) == b"run\n" + notice + b"run\n"
    assert again.restart_count == 1


async def test_g14_a_stop_in_a_pending_restart_holds(
    engine: Engine, successor: Successor, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next daemon does not start again what was to stop."""
    supervision = importlib.import_module("sandbox_api.core.processes.supervision")
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 60)
    process = await engine.start("exit 1", restart_on_failure=True, max_restarts=-1)
    await eventually(lambda: process.restarting)
    change(record(engine, process), wanted_end="stopped")
    after = await successor()
    again = found(after, process.name)
    assert await after.processes.wait(again, 5)
    assert (again.status, again.restart_count) == (Status.STOPPED, 1)


async def test_g14_a_run_over_its_time_is_ended_by_the_next(
    engine: Engine, successor: Successor, eventually: Eventually
) -> None:
    """Its age counts from its start, not from that of the daemon."""
    process = await engine.start("echo up; exec sleep 60", name="old", max_runtime_s=3600)
    await eventually(lambda: text(process.output) == b"up\n")
    change(record(engine, process), started_at=process.started_at - 3600)
    after = await successor()
    old = found(after, "old")
    assert await after.processes.wait(old, 5)
    assert (old.status, old.timed_out) == (Status.KILLED, True)


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("restarts", [0, 1])
async def test_g14_what_ended_unseen_is_not_known(
    engine: Engine,
    successor: Successor,
    reap: list[int],
    eventually: Eventually,
    restarts: int,
) -> None:
    """Failed, -1 and said to be unknown; the policy applies."""
    process = await engine.start(
        "echo run; exec sleep 0.2", name="x", restart_on_failure=True, max_restarts=restarts
    )
    reap.append(process.pid)
    await eventually(lambda: text(process.output) == b"run\n")
    engine.processes.close()
    await asyncio.to_thread(end, process.pid)
    after = await successor()
    again = found(after, "x")
    assert await after.processes.wait(again, 5)
    assert again.restart_count == restarts
    if restarts:
        assert text(again.output).count(b"run\n") == 2
        assert again.status is Status.COMPLETED
    else:
        assert (again.status, again.exit_code, again.signal) == (Status.FAILED, -1, None)
        assert again.last_exit is not None
        assert not again.last_exit.known


@pytest.mark.parametrize("values", [{"boot": "another"}, {"child_start": 1}])
async def test_g14_a_stranger_with_the_pid_is_left_alone(
    engine: Engine, successor: Successor, reap: list[int], values: dict[str, object]
) -> None:
    """After a reboot, or when the number was given again: ours has ended; no signal goes there."""
    process = await engine.start("exec sleep 60", name="x")
    reap.append(process.pid)
    change(record(engine, process), **values)
    after = await successor()
    again = found(after, "x")
    assert await after.processes.wait(again, 5)
    assert (again.status, again.exit_code) == (Status.FAILED, -1)
    await after.run("true", name="x")
    assert read_stat(process.pid) is not None


GARBAGE = {
    "empty": b"",
    "truncated": b'{"run": "0',
    "no object": b"[1, 2]",
    "no record": b"{}",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "of another run": None,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_g14_a_record_that_is_garbage_harms_no_other(
    engine: Engine, successor: Successor, caplog: pytest.LogCaptureFixture, garbage: bytes | None
) -> None:
    """It is told and left alone, with the logs that belong to it; all others are found."""
    broken = await engine.run("echo lost", name="broken")
    await engine.run("echo kept", name="kept")
    if garbage is None:
        change(record(engine, broken), run="0" * 16 + "-123456")
    else:
        record(engine, broken).write_bytes(garbage)
    after = await successor()
    assert [process.name for process in after.processes.list()] == ["kept"]
    assert text(found(after, "kept").output) == b"kept\n"
    assert f"the record of run {broken.output.run}" in caplog.text
    assert len(caplog.records) == 1
    assert (engine.directory / broken.output.run / "stdout.log").read_bytes() == b"lost\n"


async def test_what_a_crash_left_is_removed(engine: Engine, successor: Successor) -> None:
    """Records half-written, and runs that no record names; nothing else in the directories."""
    process = await engine.run("echo x", name="x")
    half = engine.records / f"{process.output.run}.new"
    run = engine.directory / ("0" * 16 + "-abcdef")
    run.mkdir()
    (run / "stdout.log").write_bytes(b"nobody's")
    others = [engine.directory / "other", engine.records / "...json", engine.records / "note.txt"]
    for path in (half, *others):
        path.write_text("{}")
    after = await successor()
    assert text(found(after, "x").output) == b"x\n"
    assert not half.exists()
    assert not run.exists()
    assert all(path.exists() for path in others)


async def test_in_a_shared_directory_nothing_is_removed(tmp_path: Path) -> None:
    """Where a setting names it, another daemon may keep its runs there when this one starts."""
    directories = Directories(tmp_path / "runs", tmp_path / "records", exclusive=False)
    run = directories.runs / ("0" * 16 + "-abcdef")
    run.mkdir(parents=True)
    directories.records.mkdir()
    resolver = PathResolver("/", "/")
    async with Processes.open(Environment(ENVIRONMENT), None, resolver, directories):
        assert run.exists()


async def test_what_is_forgotten_stays_forgotten(
    open_engine: OpenEngine, eventually: Eventually
) -> None:
    """Record and run go together."""
    engine = await open_engine(max_records=1)
    await engine.run("true", name="one")
    two = await engine.run("true", name="two")
    engine.processes.close()
    assert os.listdir(engine.records) == [f"{two.output.run}.json"]
    after = await open_engine(max_records=1)
    assert [process.name for process in after.processes.list()] == ["two"]


async def test_removed_logs_are_a_gap(engine: Engine, successor: Successor) -> None:
    """Somebody has cleaned up below us: the process is known, what it said is not."""
    process = await engine.run("echo gone; echo too >&2", name="x")
    for entry in list((engine.directory / process.output.run).iterdir()):
        entry.unlink()
    after = found(await successor(), "x")
    assert (after.status, text(after.output)) == (Status.COMPLETED, b"")


async def test_a_run_whose_directory_is_gone(engine: Engine, successor: Successor) -> None:
    """A process that lives is listed without its output, and can be stopped by its name."""
    process = await engine.start("echo before; exec sleep 60", name="x")
    await engine.run("true", name="other")
    await asyncio.to_thread(shutil.rmtree, engine.directory / process.output.run)
    after = await successor()
    assert [one.name for one in after.processes.list()] == ["x", "other"]
    assert text(found(after, "x").output) == b""
    stopped = await after.processes.stop("x")
    assert (stopped.pid, stopped.status) == (process.pid, Status.STOPPED)


async def test_a_run_that_is_gone_is_told(
    engine: Engine, successor: Successor, reap: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Where no pipes can be made a living process is not taken over; it is left alone."""
    process = await engine.start("exec sleep 60", name="x")
    reap.append(process.pid)
    await engine.run("true", name="other")
    await asyncio.to_thread(shutil.rmtree, engine.directory / process.output.run)
    (engine.directory / process.output.run).write_text("in the way")
    after = await successor()
    assert [one.name for one in after.processes.list()] == ["other"]
    assert "the output of process x is lost: " in caplog.text
    assert record(engine, process).exists()
    assert read_stat(process.pid) is not None


async def test_a_working_directory_that_is_no_text(engine: Engine, tmp_path: Path) -> None:
    """Names are bytes: a home that is not UTF-8 does not keep a process from being recorded."""
    home = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(home)
    resolver = PathResolver("/", os.fsdecode(home))
    directories = Directories(engine.directory, engine.records)
    for _ in range(2):
        async with Processes.open(Environment(ENVIRONMENT), None, resolver, directories) as one:
            if not one.list():
                await one.start(ProcessSpec(command="pwd", working_dir="~", name="x"))
            process = one.find("x")
            assert process is not None
            assert await one.wait(process, 5)
            assert text(process.output) == home + b"\n"


async def test_records_that_cannot_be_written(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so, not one for each change; commands run."""
    engine.records.rmdir()
    for _ in range(3):
        assert (await engine.run("echo x")).exit_code == 0
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "process records cannot be written"
    ]


def test_without_a_directory_there_are_no_records() -> None:
    """A daemon that runs from memory."""
    records = Records(None)
    records.clean()
    assert (list(records.load()), list(records.runs())) == ([], [])


async def test_records_are_private(engine: Engine) -> None:
    """They hold the variables of the request while it runs: 0600; afterwards not even that."""
    process = await engine.start("read line", stdin=True, env={"TOKEN": "hush-4711"})
    path = record(engine, process)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"hush-4711" in path.read_bytes()
    assert process.stdin is not None
    process.stdin.close()
    assert await engine.processes.wait(process, 5)
    assert b"hush-4711" not in path.read_bytes()
