"""Control groups: who was started by a process is known, wherever it has gone."""

import asyncio
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sandbox_api.core.processes import Process, Status, cgroup, hierarchy
from sandbox_api.core.processes.cgroup import PREFIX, Cgroup, Cgroups
from sandbox_api.core.processes.hierarchy import own_directory, own_group
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.reaper import Reaper
from sandbox_api.core.processes.tree import read_stat
from tests.core.processes.conftest import Engine, OpenEngine, text

Eventually = Callable[..., Awaitable[object]]
OWN = own_directory()


@pytest.fixture
def directory() -> Path:
    """Where a daemon of its own has its groups; there must be somewhere to have them."""
    if not os.access(OWN / "cgroup.procs", os.W_OK):
        pytest.skip("control groups (version 2) are not writable here")
    return OWN / f"{PREFIX}test-{secrets.token_hex(4)}"


@pytest.fixture
async def groups(directory: Path) -> AsyncIterator[Cgroups]:
    """Groups below this test's own one; nothing is left of them in the end."""
    reaper = Reaper()
    groups = Cgroups.open(directory.name.removeprefix(PREFIX), reaper)
    assert groups is not None
    yield groups
    groups.close()
    reaper.close()
    assert made(directory) is None


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of nobody's."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
async def engine(groups: Cgroups, open_engine: OpenEngine) -> Engine:
    """An engine with groups."""
    return await open_engine(host=Host(open_cgroups=lambda: groups))


def made(directory: Path) -> list[Path] | None:
    """The groups that are there; None where not even their directory is."""
    return [*directory.glob("*/")] if directory.exists() else None


def alive(pid: int) -> bool:
    """Whether a process runs."""
    stat = read_stat(pid)
    return stat is not None and not stat.dead


async def in_group(process: Process, eventually: Eventually) -> Cgroup:
    """The group of a process, once that is in it."""
    group = process.group
    assert group is not None
    await eventually(lambda: process.child.pid in group.members())
    return group


# leaves session and parent, and closes all that came from the run
DAEMON = "setsid sh -c 'sleep 1000 </dev/null >/dev/null 2>&1 & echo $!'"


async def test_g11_a_kill_finds_who_has_left_no_trace(
    engine: Engine, eventually: Eventually
) -> None:
    """No session, no parent, no pipe: the group knows, and the kernel kills."""
    process = await engine.start(f"sleep 0.2; {DAEMON}; echo $$; exec sleep 1000")
    await in_group(process, eventually)
    await eventually(lambda: text(process.output).count(b"\n") == 2)
    daemon, shell = map(int, text(process.output).split())
    assert read_stat(daemon).session != shell  # type: ignore[union-attr]
    _, survivors = await engine.processes.kill(process.name)
    assert survivors == []
    assert [pid for pid in (daemon, shell) if alive(pid)] == []


async def test_g11_after_its_end_too(
    engine: Engine, eventually: Eventually, directory: Path
) -> None:
    """What an ended process has left behind can be killed, and then its group goes."""
    process = await engine.start(f"sleep 0.2; {DAEMON}")
    await in_group(process, eventually)
    await engine.processes.wait(process, 5)
    daemon = int(text(process.output))
    assert alive(daemon)
    await engine.processes.kill(process.name)
    assert not alive(daemon)
    await engine.run("exec sleep 0.1")
    await eventually(lambda: made(directory) == [])


async def test_a_stop_reaches_it(engine: Engine, eventually: Eventually) -> None:
    """SIGTERM goes to the whole group."""
    process = await engine.start(f"sleep 0.2; {DAEMON}; exec sleep 1000")
    await in_group(process, eventually)
    await eventually(lambda: b"\n" in text(process.output))
    daemon = int(text(process.output))
    await engine.processes.stop(process.name)
    assert process.status is Status.STOPPED
    await eventually(lambda: not alive(daemon))


async def test_children_from_before_the_move_are_moved(
    engine: Engine, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a program that forks before its group is there."""
    monkeypatch.setattr(cgroup, "JOIN_AFTER_S", 0.3)
    process = await engine.start("sh -c 'sleep 1000 & sleep 1000' & sleep 1000")
    group = await in_group(process, eventually)
    await eventually(lambda: len(group.members()) == 5)


async def test_groups_that_a_program_makes_are_killed_as_well(
    engine: Engine,
    eventually: Eventually,
    directory: Path,
    stranger: "subprocess.Popen[bytes]",
) -> None:
    """A program with rights on groups, such as a container engine, may nest them."""
    process = await engine.start("exec sleep 1000")
    group = await in_group(process, eventually)
    (below,) = (path / "below" for path in made(directory) or ())
    below.mkdir()
    (below / "cgroup.procs").write_text(str(stranger.pid))
    assert set(group.members()) == {process.pid, stranger.pid}
    _, survivors = await engine.processes.kill(process.name)
    assert (await asyncio.to_thread(stranger.wait, 5), survivors) == (-signal.SIGKILL, [])


async def test_a_short_run_costs_no_group(
    engine: Engine, directory: Path, eventually: Eventually
) -> None:
    """Most runs are over before anything is made for them."""
    process = await engine.run("true")
    await eventually(lambda: process.group is None)
    assert made(directory) == []


async def test_a_restart_uses_the_same_group(
    engine: Engine, eventually: Eventually, tmp_path: Path
) -> None:
    """What an earlier run has left behind belongs to the process too."""
    command = f"test -e x && exec sleep 1000; > x; sleep 0.2; {DAEMON}; exit 1"
    process = await engine.start(command, restart_on_failure=True, max_restarts=1, working_dir=".")
    group = await in_group(process, eventually)
    await eventually(lambda: process.restart_count == 1 and len(group.members()) == 2)
    daemon = next(pid for pid in group.members() if pid != process.child.pid)
    await engine.processes.kill(process.name)
    assert not alive(daemon)
    assert tmp_path.joinpath("x").exists()


async def test_g14_the_group_is_found_again(
    open_engine: OpenEngine, directory: Path, eventually: Eventually
) -> None:
    """A daemon that comes later kills what one before it has started."""
    async with AsyncExitStack() as stack:

        async def open_with_groups() -> Engine:
            reaper = Reaper()
            stack.callback(reaper.close)
            groups = Cgroups(directory, reaper)
            stack.callback(groups.close)
            return await open_engine(host=Host(reaper=reaper, open_cgroups=lambda: groups))

        engine = await open_with_groups()
        process = await engine.start(f"sleep 0.2; {DAEMON}; exec sleep 1000", name="p")
        await in_group(process, eventually)
        await eventually(lambda: b"\n" in text(process.output))
        daemon = int(text(process.output))
        engine.processes.close()
        second = await open_with_groups()
        await second.processes.kill("p")
        assert not alive(daemon)


async def test_strangers_are_never_moved(
    groups: Cgroups, stranger: "subprocess.Popen[bytes]"
) -> None:
    """One that has got the number of an ended child goes back to where it was."""
    group = groups.group("g")
    group.add(stranger.pid, start=1)
    assert group.members() == set()
    assert own_group(pid=stranger.pid) == own_group()
    group.add(2**22 + 1, start=1)
    assert group.members() == set()


async def test_where_the_kernel_refuses(
    engine: Engine, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes are started and killed as if there were no groups."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "refused")

    monkeypatch.setattr(Cgroup, "add", refuse)
    for _ in range(2):
        process = await engine.start("exec sleep 1000")
        await eventually(lambda: engine.processes._host.cgroups._refused)  # type: ignore[union-attr]
        _, survivors = await engine.processes.kill(process.name)
        assert (survivors, process.status) == ([], Status.KILLED)


async def test_without_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hierarchy, a read-only one, or one that is a plain directory."""
    reaper = Reaper()
    for own in (hierarchy.NOWHERE, Path("/proc/self"), tmp_path / "cgroup.procs"):
        monkeypatch.setattr(cgroup, "own_directory", lambda own=own: own)
        assert Cgroups.open("x", reaper) is None


async def test_another_daemon_cleans_up(
    directory: Path, groups: Cgroups, stranger: "subprocess.Popen[bytes]"
) -> None:
    """It removes what is empty; who needs it again makes it again."""
    group = groups.group("g")
    other = Cgroups.open(directory.name.removeprefix(PREFIX) + "-other", Reaper())
    assert other is not None
    other.close()
    assert made(directory) is None
    group.add(stranger.pid, read_stat(stranger.pid).start)  # type: ignore[union-attr]
    assert set(group.members()) == {stranger.pid}
    assert not group.remove()
    group.kill()
    await asyncio.to_thread(stranger.wait)
    assert group.remove()


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 /docker/a\\040b /sys/fs/cgroup/uni\\040fied ro,nosuid - cgroup2 cgroup rw
31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


@pytest.mark.parametrize(
    ("own", "version2", "memory"),
    [
        ("3:memory:/x\n0::/docker/a b/c\n", "/sys/fs/cgroup/uni fied/c", "/sys/fs/cgroup/memory/x"),
        ("0::/docker/a b\n", "/sys/fs/cgroup/uni fied", "/nonexistent"),
        ("0::/elsewhere\n", "/nonexistent", "/nonexistent"),
        ("0::/../..\n", "/nonexistent", "/nonexistent"),
        ("", "/nonexistent", "/nonexistent"),
    ],
)
def test_where_our_own_group_lies(
    monkeypatch: pytest.MonkeyPatch, own: str, version2: str, memory: str
) -> None:
    """In both versions, in a container's view, and where it lies outside of what we see."""
    files = {"/proc/self/cgroup": own, "/proc/self/mountinfo": MOUNTS}
    monkeypatch.setattr(hierarchy, "_lines", lambda path: files[path].splitlines())
    assert (str(own_directory()), str(own_directory("memory"))) == (version2, memory)


def test_where_proc_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nowhere then."""
    monkeypatch.setattr(hierarchy, "Path", lambda _: Path("/nonexistent"))
    assert own_group() is None
