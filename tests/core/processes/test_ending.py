"""Stop and kill: the whole tree, within bounds, and the status tells the truth."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import pytest

from sandbox_api.core.processes import Process, Status
from sandbox_api.core.processes.tree import ProcessStat, all_stats, read_stat
from sandbox_api.errors import InvalidError, NotFoundError
from tests.core.processes.conftest import Engine, OpenEngine, text

Eventually = Callable[..., Awaitable[object]]
Started = Callable[..., Awaitable[Process]]

IGNORE_TERM = "trap '' TERM; echo ready; while :; do sleep 1; done"


def outcome(process: Process) -> tuple[Status, int, str | None]:
    """Status, exit code and signal."""
    return process.status, process.exit_code, process.signal


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    stat = read_stat(pid)
    return stat is not None and stat.state not in "ZX"


@pytest.fixture
def started(engine: Engine, eventually: Eventually) -> Started:
    """Start a command and wait until it has said `ready` or given its children's pids."""

    async def start(
        command: str, lines: int = 1, of: Engine | None = None, **spec: object
    ) -> Process:
        process: Process = await (of or engine).start(command, **spec)
        await eventually(lambda: text(process.output).count(b"\n") >= lines)
        return process

    return start


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo ready; exec sleep 60", (Status.STOPPED, -1, "SIGTERM")),
        ("trap 'exit 3' TERM; echo ready; sleep 60 & wait", (Status.STOPPED, 3, None)),
        ("trap 'exit 0' TERM; echo ready; sleep 60 & wait", (Status.COMPLETED, 0, None)),
    ],
)
async def test_stop(
    engine: Engine, started: Started, command: str, expected: tuple[Status, int, str | None]
) -> None:
    """The table of spec/process.md 5.1; the answer comes when it has ended."""
    process = await started(command, name="s")
    assert await engine.processes.stop("s") is process
    assert outcome(process) == expected
    assert not process.stopping


async def test_a_second_stop_is_no_error(engine: Engine, started: Started) -> None:
    """A client that repeats its request gets the same answer; one that comes too late does not."""
    process = await started("echo ready; exec sleep 60", name="s")
    await engine.processes.stop("s")
    assert await engine.processes.stop("s") is process
    ended = await engine.run("true")
    with pytest.raises(NotFoundError, match="is not running"):
        await engine.processes.stop(ended.name)


async def test_g12_a_stop_that_is_ignored(open_engine: OpenEngine, started: Started) -> None:
    """Answered within 3 s with the truth, and the grace ends in a kill; status stopped."""
    engine = await open_engine(stop_grace_s=3.4)
    process = await started(IGNORE_TERM, of=engine, name="s")
    begin = time.monotonic()
    await engine.processes.stop("s")
    assert 2.9 < time.monotonic() - begin < 3.3
    assert (process.status, process.stopping) == (Status.RUNNING, True)
    assert alive(process.pid)
    assert await engine.processes.wait(process, 3)
    assert outcome(process) == (Status.STOPPED, -1, "SIGKILL")
    assert not process.stopping


async def test_g12_a_grace_under_the_answer_is_kept(
    open_engine: OpenEngine, started: Started
) -> None:
    """With a grace of 0.1 s the answer is that it has ended."""
    engine = await open_engine(stop_grace_s=0.1)
    process = await started(IGNORE_TERM, of=engine)
    await engine.processes.stop(process.name)
    assert outcome(process) == (Status.STOPPED, -1, "SIGKILL")


async def test_g12_a_start_under_the_name_of_a_stopping_process(
    engine: Engine, started: Started
) -> None:
    """It does not wait for the grace: the old one is killed, then the new one starts."""
    old = await started(IGNORE_TERM, name="s")
    stop = asyncio.create_task(engine.processes.stop("s"))
    await asyncio.sleep(0)
    assert old.stopping
    new = await engine.start("sleep 60", name="s")
    assert not old.running
    assert not alive(old.pid)
    assert engine.processes.find("s") is new
    assert await stop is old
    assert new.running


async def test_only_one_of_many_starts_gets_the_name(engine: Engine, started: Started) -> None:
    """Of those who wait for a stopping process one gets its name, the others are told."""
    await started(IGNORE_TERM, name="s")
    stop = asyncio.create_task(engine.processes.stop("s"))
    await asyncio.sleep(0)
    starts = [engine.start("sleep 60", name="s") for _ in range(4)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["InvalidError"] * 3 + ["Process"]
    await stop


CHILDREN = """
sleep 61 & echo $!
setsid sleep 62 & echo $!
setsid sh -c 'sleep 63 & echo $!; setsid sleep 64 & echo $!; wait' & echo $!
setsid sh -c 'echo $$; exec sleep 66 >/dev/null 2>&1' &
exec 3>/dev/null; {end}
"""


def pids(process: Process) -> list[int]:
    """What the command has printed: its children's pids, and its own."""
    return [process.pid, *map(int, text(process.output).split())]


@pytest.mark.parametrize("end", ["wait", "exec sleep 65", "trap '' TERM; wait; wait; sleep 60"])
async def test_g11_a_kill_ends_the_whole_tree(engine: Engine, started: Started, end: str) -> None:
    """Children and grandchildren, in sessions of their own too, are dead when it answers."""
    process = await started(CHILDREN.format(end=end), lines=6)
    begin = time.monotonic()
    _, survivors = await engine.processes.kill(process.name)
    assert time.monotonic() - begin < 5  # without waiting for a grace; a bench has the real bound
    assert survivors == []
    assert [pid for pid in pids(process) if alive(pid)] == []
    assert outcome(process) == (Status.KILLED, -1, "SIGKILL")


async def test_g11_a_stop_reaches_the_whole_tree(
    engine: Engine, started: Started, eventually: Eventually
) -> None:
    """Children in sessions of their own get the SIGTERM as well."""
    process = await started(CHILDREN.format(end="wait"), lines=6)
    await engine.processes.stop(process.name)
    children = pids(process)
    await eventually(lambda: not any(map(alive, children)))


async def test_g11_what_ignores_a_stop_is_killed_after_the_grace(
    open_engine: OpenEngine, started: Started, eventually: Eventually
) -> None:
    """Also a child in its own session, whose parent ended at the SIGTERM."""
    engine = await open_engine(stop_grace_s=0.3)
    command = "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait"
    process = await started(command, of=engine)
    child = int(text(process.output))
    await engine.processes.stop(process.name)
    assert process.status is Status.STOPPED
    await eventually(lambda: not alive(child))


async def test_a_kill_of_what_a_process_left_behind(engine: Engine, started: Started) -> None:
    """The children of an ended process die; its status stays (Q16). Then nothing is left."""
    process = await started("sleep 60 & echo $!")
    await engine.processes.wait(process, 5)
    (_, child) = pids(process)
    assert alive(child)
    _, survivors = await engine.processes.kill(process.name)
    assert (survivors, alive(child), process.status) == ([], False, Status.COMPLETED)
    with pytest.raises(NotFoundError, match="failed to kill process with Identifier"):
        await engine.processes.kill(process.name)


async def test_g11_what_forks_meanwhile_is_killed(
    engine: Engine, started: Started, eventually: Eventually
) -> None:
    """What forks while it is being killed is killed too."""
    command = "echo ready; while :; do sleep 60 & done"
    process = await started(command)
    await engine.processes.kill(process.name)
    assert await engine.processes.wait(process, 5)
    # on a busy machine those that are killed may take longer to go than a kill waits
    await eventually(lambda: not any(one.session == process.pid for one in living()))


def living() -> list[ProcessStat]:
    """All processes but zombies."""
    return [one for one in all_stats() if one.state not in "ZX"]


async def test_a_kill_outweighs_a_stop(engine: Engine, started: Started) -> None:
    """Killed is what it was, whoever asked first."""
    process = await started(IGNORE_TERM)
    stop = asyncio.create_task(engine.processes.stop(process.name))
    await asyncio.sleep(0)
    assert process.stopping
    await engine.processes.kill(process.name)
    assert process.status is Status.KILLED
    assert await stop is process


async def test_death_by_somebody_else(engine: Engine, started: Started) -> None:
    """Without a stop or kill of ours it has failed."""
    process = await started("echo ready; exec sleep 60")
    os.kill(process.pid, 15)
    assert await engine.processes.wait(process, 5)
    assert outcome(process) == (Status.FAILED, -1, "SIGTERM")


async def test_stopped_processes_get_a_signal_too(engine: Engine, started: Started) -> None:
    """A process that is suspended cannot act on SIGTERM; a kill ends it."""
    process = await started("echo ready; kill -STOP $$; exit 3")
    await engine.processes.kill(process.name)
    assert outcome(process) == (Status.KILLED, -1, "SIGKILL")


async def test_the_daemons_own_children_are_not_touched(engine: Engine, started: Started) -> None:
    """A kill hits nothing outside of its tree."""
    other = await started("echo ready; exec sleep 60")
    process = await started("echo ready; exec sleep 60")
    await engine.processes.kill(process.name)
    assert other.running
    assert alive(other.pid)


async def test_a_name_is_refused_while_its_process_cannot_die(
    engine: Engine, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in an uninterruptible wait keeps its name: the new start says so."""
    process = await started(IGNORE_TERM, name="s")
    process.want_end(Status.STOPPED)

    async def survive(*_: object) -> list[object]:
        return []

    monkeypatch.setattr("sandbox_api.core.processes.ending.kill", survive)
    with pytest.raises(InvalidError, match="does not end"):
        await engine.start("true", name="s")
    monkeypatch.undo()
