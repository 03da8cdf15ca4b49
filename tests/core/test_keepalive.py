"""The scale-to-zero file: what is written, and that every `+` gets its `-`."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sandbox_api.core import keepalive
from sandbox_api.core.environment import Environment
from sandbox_api.core.keepalive import ScaleFile
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes import (
    Directories,
    Limits,
    Process,
    Processes,
    ProcessSpec,
    Status,
    supervision,
)
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.tail import read_tail
from sandbox_api.core.processes.tree import read_stat

Eventually = Callable[..., Awaitable[object]]
Open = Callable[..., Awaitable[Processes]]
TERM_IS_IGNORED = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
TERM_IS_OBEYED = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"


class Recorder(ScaleFile):
    """A scale file that remembers all that was written."""

    def __init__(self, path: str, *, counting: bool = True) -> None:
        super().__init__(path, counting=counting)
        self.written: list[bytes] = []

    async def _write(self, payload: bytes) -> None:
        await super()._write(payload)
        self.written.append(payload)


def content(path: Path) -> bytes:
    """What the platform would read."""
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the platform looks."""
    return tmp_path / "scale"


@pytest.fixture
def scale(path: Path) -> Recorder:
    """A scale file in an existing directory."""
    return Recorder(str(path))


@pytest.fixture
async def open_processes(tmp_path: Path) -> AsyncIterator[Open]:
    """`await open_processes(scale)`: a process engine; each one finds what the last one left."""
    async with AsyncExitStack() as stack:

        async def open_one(scale: ScaleFile, stop_grace_s: float = 0.3) -> Processes:
            directories = Directories(tmp_path / "runs", tmp_path / "records")
            for directory in (directories.runs, directories.records):
                directory.mkdir(exist_ok=True)
            return await stack.enter_async_context(
                Processes.open(
                    Environment({"PATH": "/usr/bin:/bin"}),
                    None,
                    PathResolver(str(tmp_path), str(tmp_path)),
                    directories,
                    Limits(stop_grace_s=stop_grace_s),
                    Host(scale=scale),
                )
            )

        yield open_one


@pytest.fixture
async def processes(open_processes: Open, scale: ScaleFile) -> Processes:
    """An engine that counts in the scale file."""
    return await open_processes(scale)


async def start(processes: Processes, command: str, **spec: object) -> Process:
    """A process that keeps the sandbox awake."""
    wanted = {"keep_alive": True, **spec}
    return await processes.start(ProcessSpec(command=command, **wanted))  # type: ignore[arg-type]


async def test_the_file_shows_what_was_written_last(scale: ScaleFile, path: Path) -> None:
    """At offset 0, without truncation, as the reference does it."""
    await scale.reset()
    assert content(path) == b"=0"
    await scale.hold()
    assert content(path) == b"+0"
    await scale.release()
    assert content(path) == b"-0"


def test_what_else_is_in_the_file_stays(scale: ScaleFile, path: Path) -> None:
    """The platform writes the count behind its sign."""
    path.write_bytes(b"=12\n")
    asyncio.run(scale.hold())
    assert content(path) == b"+12\n"


def test_a_new_file_is_for_all_to_read(scale: ScaleFile, path: Path) -> None:
    """Its reader is another user."""
    asyncio.run(scale.reset())
    assert path.stat().st_mode & 0o777 == 0o644


async def test_when_it_may_not_count(path: Path) -> None:
    """BL_DISABLE_KEEPALIVE: only the reset at start is written."""
    scale = ScaleFile(str(path), counting=False)
    await scale.reset()
    await scale.hold()
    await scale.release()
    assert content(path) == b"=0"


async def test_without_the_directory_nothing_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Most sandboxes have no such platform: no file, no directory, no noise."""
    for missing in (str(tmp_path / "none" / "file"), ""):
        await ScaleFile(missing, counting=True).reset()
    assert os.listdir(tmp_path) == []
    assert not caplog.records


async def test_what_cannot_be_written_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing of it; the log does."""
    await ScaleFile(str(tmp_path), counting=True).hold()
    assert caplog.messages == [f"[Scale] writing + to {tmp_path} failed: Is a directory"]


async def test_a_lock_that_is_never_given_back_holds_nobody(
    scale: ScaleFile,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is waited for; then the write is done all the same, and the log says so."""
    with path.open("wb") as platform:
        fcntl.flock(platform, fcntl.LOCK_EX)
        soon = asyncio.get_running_loop().call_later(
            0.1, fcntl.flock, platform.fileno(), fcntl.LOCK_UN
        )
        await scale.hold()
        assert not caplog.records
        assert soon.when() < asyncio.get_running_loop().time()
        fcntl.flock(platform, fcntl.LOCK_EX)
        monkeypatch.setattr(keepalive, "LOCK_WAIT_S", 0.05)
        async with asyncio.timeout(5):
            await scale.release()
    assert content(path) == b"-"
    assert "stays locked" in caplog.text


async def test_many_at_once_are_counted(scale: Recorder, path: Path) -> None:
    """In the order in which they were asked for."""
    await asyncio.gather(*[scale.hold() for _ in range(20)], scale.release())
    assert scale.written == [b"+"] * 20 + [b"-"]
    assert content(path) == b"-"


@pytest.mark.parametrize("command", ["exit 0", "exit 3", "kill -9 $$"])
async def test_a_process_counts_once(
    processes: Processes, scale: Recorder, eventually: Eventually, command: str
) -> None:
    """However it ends by itself."""
    process = await start(processes, command)
    assert await processes.wait(process, 5)
    await eventually(lambda: scale.written == [b"=0", b"+", b"-"])
    assert process.keeps_alive


async def test_a_process_without_it_does_not_count(processes: Processes, scale: Recorder) -> None:
    """Keep-alive is asked for."""
    process = await start(processes, "true", keep_alive=False)
    assert await processes.wait(process, 5)
    assert scale.written == [b"=0"]


@pytest.mark.parametrize("command", ["exec sleep 60", TERM_IS_IGNORED])
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_one_that_is_ended_counts_once(
    processes: Processes, scale: Recorder, eventually: Eventually, command: str, end: str
) -> None:
    """A stop that is ignored as well; asked for twice as well."""
    process = await start(processes, command)
    await eventually(lambda: scale.written[1:] == [b"+"])
    await getattr(processes, end)(process.name)
    if end == "stop":
        await processes.stop(process.name)
    assert await processes.wait(process, 5)
    assert not process.keeps_alive
    await eventually(lambda: scale.written[1:] == [b"+", b"-"])


async def test_the_timer_kills(
    processes: Processes, scale: Recorder, eventually: Eventually
) -> None:
    """At its age; then the sandbox may sleep."""
    process = await start(processes, TERM_IS_OBEYED, keep_alive_s=0.2)
    assert await processes.wait(process, 5)
    assert (process.status, process.exit_code) == (Status.KILLED, -1)
    assert (process.timed_out, process.keeps_alive) == (True, False)
    await eventually(lambda: scale.written[1:] == [b"+", b"-"])


async def test_a_stop_disarms_the_timer(
    open_processes: Open, scale: Recorder, eventually: Eventually
) -> None:
    """Who was told to stop has its grace, and was stopped, not killed for its age."""
    processes = await open_processes(scale, stop_grace_s=1.2)
    process = await start(processes, TERM_IS_IGNORED, keep_alive_s=1)
    await eventually(lambda: process.output.position.stdout)
    asked = asyncio.get_running_loop().time()
    await processes.stop(process.name)
    assert await processes.wait(process, 5)
    assert asyncio.get_running_loop().time() - asked >= 1.2
    assert (process.status, process.timed_out) == (Status.STOPPED, False)


async def test_restarts_are_one_process(
    processes: Processes,
    scale: Recorder,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`+` at the first run, `-` after the last; each run has the timer's whole time."""
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 0.3)
    process = await start(
        processes,
        "test -e again && exec sleep 60; : > again; sleep 0.2; exit 1",
        working_dir=str(tmp_path),
        keep_alive_s=0.4,
        restart_on_failure=True,
        max_restarts=5,
    )
    began = asyncio.get_running_loop().time()
    assert await processes.wait(process, 5)
    assert asyncio.get_running_loop().time() - began >= 0.2 + 0.3 + 0.4 - 0.05
    assert (process.status, process.restart_count) == (Status.KILLED, 1)
    await eventually(lambda: scale.written == [b"=0", b"+", b"-"])


async def test_the_next_daemon_counts_again(
    open_processes: Open, scale: Recorder, path: Path, eventually: Eventually
) -> None:
    """`=0`, then `+` for each that still lives, whether it ends or is stopping; not for others."""
    before = await open_processes(scale)
    living = [await start(before, "exec sleep 60") for _ in range(2)]
    await start(before, "exec sleep 60", keep_alive=False)
    ended = await start(before, "true")
    assert await before.wait(ended, 5)
    await eventually(lambda: sorted(scale.written) == [b"+", b"+", b"+", b"-", b"=0"])
    before.close()
    assert len(scale.written) == 5

    again = Recorder(str(path))
    after = await open_processes(again)
    await eventually(lambda: again.written == [b"=0", b"+", b"+"])
    for process in after.list():
        if process.running:
            await after.kill(process.name)
    await eventually(lambda: again.written == [b"=0", b"+", b"+", b"-", b"-"])
    assert {process.name for process in living} < {process.name for process in after.list()}


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("exec sleep 60", (-1, "SIGTERM")),
        (TERM_IS_OBEYED, (0, None)),
        (TERM_IS_IGNORED, (-1, "SIGKILL")),
    ],
)
async def test_a_run_over_its_time(
    processes: Processes, command: str, outcome: tuple[int, str | None]
) -> None:
    """TERM, the grace, KILL; killed and timed out, even if it then exits with 0."""
    process = await start(
        processes, command, keep_alive=False, max_runtime_s=0.5, restart_on_failure=True
    )
    assert await processes.wait(process, 5)
    assert (process.exit_code, process.signal) == outcome
    assert (process.status, process.timed_out) == (Status.KILLED, True)
    assert process.restart_count == 0


def lives(pid: int) -> bool:
    """Whether it does; nobody may be there to reap an orphan."""
    stat = read_stat(pid)
    return stat is not None and not stat.dead


async def test_a_run_over_its_time_with_deaf_children(
    open_processes: Open, scale: ScaleFile, eventually: Eventually
) -> None:
    """Its end is its own; children that ignore SIGTERM are killed after the grace, and delay
    nothing."""
    processes = await open_processes(scale, stop_grace_s=3.0)
    command = "(trap '' TERM; while :; do sleep 0.05; done) & echo $!; exec sleep 60"
    process = await start(processes, command, keep_alive=False, max_runtime_s=0.3)
    assert await processes.wait(process, 2)
    assert (process.status, process.signal) == (Status.KILLED, "SIGTERM")
    deaf = int((await read_tail(process.output, 100)).stdout)
    assert lives(deaf)
    await eventually(lambda: not lives(deaf))


async def test_a_run_within_its_time(processes: Processes) -> None:
    """It is not touched."""
    process = await start(processes, "exit 4", keep_alive=False, max_runtime_s=30)
    assert await processes.wait(process, 5)
    assert (process.status, process.exit_code) == (Status.FAILED, 4)
    assert not process.timed_out


@pytest.mark.parametrize(
    ("limits", "earliest"),
    [
        ({"keep_alive_s": 5.0, "max_runtime_s": 7.0}, 5.0),
        ({"keep_alive_s": 5.0, "max_runtime_s": 2.0}, 2.0),
        ({"keep_alive_s": 0.0, "max_runtime_s": 2.0}, 2.0),
        ({"keep_alive_s": 5.0, "max_runtime_s": 2.0, "keep_alive": False}, 2.0),
        ({"keep_alive_s": 5.0, "keep_alive": False}, None),
        ({}, None),
    ],
)
def test_the_earliest_limit_counts(limits: dict[str, float], earliest: float | None) -> None:
    """0 is none, and the keep-alive's age is only for who keeps the sandbox awake."""
    wanted = {"keep_alive": True, **limits}
    assert ProcessSpec(command="true", **wanted).run_limit_s == earliest  # type: ignore[arg-type]
