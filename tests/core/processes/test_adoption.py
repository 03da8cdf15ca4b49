"""Seeing the end of processes that are not our children."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from sandbox_api.core.processes import adoption
from sandbox_api.core.processes.adoption import Adoptions
from sandbox_api.core.processes.holding import exit_status
from sandbox_api.core.processes.reaper import UNKNOWN_EXIT, Exit, Reaper
from sandbox_api.core.processes.tree import ProcessStat, read_stat

Eventually = Callable[..., Awaitable[object]]
Stranger = Callable[[str], ProcessStat]

NO_PIDFDS = patch("os.pidfd_open", side_effect=OSError(errno.ENOSYS, "none"))


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    """`stranger("exit 3")`: a shell whose parent is not us; it goes on when `tmp_path/go` is read.

    A second one holds it, as a daemon before us held its children.
    """
    started: list[ProcessStat] = []

    def start(command: str) -> ProcessStat:
        (tmp_path / "go").unlink(missing_ok=True)
        os.mkfifo(tmp_path / "go")
        script = f"(read line < {tmp_path}/go; {command}) > /dev/null & echo $!"
        done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
        stat = read_stat(int(done.stdout))
        assert stat is not None
        started.append(stat)
        return stat

    yield start
    for stat in started:
        with suppress(ProcessLookupError):
            os.kill(stat.pid, signal.SIGKILL)


@pytest.fixture
async def adoptions() -> AsyncIterator[Adoptions]:
    """An owner of adopted processes."""
    reaper = Reaper()
    owner = Adoptions(reaper)
    yield owner
    owner.close()
    reaper.close()


@pytest.fixture
def neglected() -> Iterator[int]:
    """The pid of a process that exits with 5, and whose parent never asks how it ended."""
    program = "import os; print(os.fork() or os._exit(5), flush=True); input()"
    command = [sys.executable, "-I", "-S", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        yield int(parent.stdout.readline())
        parent.communicate(b"\n")


@pytest.fixture
def own_child() -> int:
    """The pid of a child of ours that exits with 6, and that nobody waits for."""
    child = subprocess.Popen(["sh", "-c", "exit 6"])
    child.returncode = 0
    return child.pid


async def let_go(tmp_path: Path) -> None:
    """Let the stranger run on."""
    await asyncio.to_thread((tmp_path / "go").write_text, "\n")


def kernel_tells() -> bool:
    """Whether a pidfd tells how a process ended that was not our child (Linux 6.15)."""
    with subprocess.Popen(["true"]) as child:
        pidfd = os.pidfd_open(child.pid)
    told = exit_status(pidfd)
    os.close(pidfd)
    return told is not None


@pytest.mark.skipif(not kernel_tells(), reason="only Linux 6.15 and later tell it")
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("exit 0", Exit(0)),
        ("exit 3", Exit(3)),
        ("kill -TERM $(exec sh -c 'echo $PPID')", Exit(-1, "SIGTERM")),
    ],
)
async def test_g14_the_exit_is_exact_where_the_kernel_tells(
    adoptions: Adoptions, stranger: Stranger, tmp_path: Path, command: str, expected: Exit
) -> None:
    """Though its parent, whoever that is by now, takes the status."""
    stat = stranger(command)
    child = adoptions.adopt(stat.pid, stat.start)
    assert not child.exited.done()
    await let_go(tmp_path)
    async with asyncio.timeout(5):
        assert await child.exited == expected


async def test_g14_an_exit_that_nobody_knows_is_not_invented(
    adoptions: Adoptions, stranger: Stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an older kernel, when its parent was faster."""
    monkeypatch.setattr(adoption, "exit_status", lambda pidfd: None)
    monkeypatch.setattr(adoption, "read_exit_status", lambda pid, start: None)
    monkeypatch.setattr(adoption, "LOOK_AGAIN_TIMES", 3)
    stat = stranger("exit 3")
    child = adoptions.adopt(stat.pid, stat.start)
    await let_go(tmp_path)
    async with asyncio.timeout(5):
        assert await child.exited == UNKNOWN_EXIT
    assert (UNKNOWN_EXIT.code, UNKNOWN_EXIT.known) == (-1, False)


async def test_a_zombie_tells_how_it_ended(
    adoptions: Adoptions, neglected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an older kernel, when its parent never asks: what /proc shows is enough."""
    monkeypatch.setattr(adoption, "exit_status", lambda pidfd: None)
    stat = read_stat(neglected)
    assert stat is not None
    child = adoptions.adopt(neglected, stat.start)
    async with asyncio.timeout(5):
        assert await child.exited == Exit(5)


async def test_without_pidfds_it_is_looked_at_now_and_then(
    adoptions: Adoptions, stranger: Stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel before 5.3 the end is seen a little later."""
    monkeypatch.setattr(adoption, "POLL_S", 0.01)
    monkeypatch.setattr(adoption, "LOOK_AGAIN_TIMES", 1)
    stat = stranger("exit 3")
    with NO_PIDFDS:
        child = adoptions.adopt(stat.pid, stat.start)
    await asyncio.sleep(0.05)
    assert not child.exited.done()
    await let_go(tmp_path)
    async with asyncio.timeout(5):
        assert await child.exited in (Exit(3), UNKNOWN_EXIT)  # whether it was seen as a zombie


async def test_letting_go_of_those_that_live(stranger: Stranger) -> None:
    """A daemon that ends leaves them alone, and no descriptor or timer of theirs is left."""
    before = os.listdir("/proc/self/fd")
    reaper = Reaper()
    owner = Adoptions(reaper)
    stats = [stranger("exit 3"), stranger("exit 3")]
    owner.adopt(stats[0].pid, stats[0].start)
    with NO_PIDFDS:
        owner.adopt(stats[1].pid, stats[1].start)
    owner.close()
    assert os.listdir("/proc/self/fd") == before
    assert all(read_stat(stat.pid) for stat in stats)


async def test_g14_another_process_of_that_number_is_not_adopted(
    adoptions: Adoptions, stranger: Stranger
) -> None:
    """A pid is used again; with the time of its start it is unique. A signal never reaches it."""
    stat = stranger("exit 3")
    child = adoptions.adopt(stat.pid, stat.start - 1)
    assert child.exited.result() == UNKNOWN_EXIT
    child.send(signal.SIGKILL)
    now = read_stat(stat.pid)
    assert now is not None
    assert not now.dead


async def test_g14_one_that_is_gone_has_ended(adoptions: Adoptions) -> None:
    """How, nobody knows."""
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    assert adoptions.adopt(gone.pid, 1).exited.result() == UNKNOWN_EXIT


async def test_our_own_children_go_to_the_reaper(adoptions: Adoptions, own_child: int) -> None:
    """A daemon that replaced itself (execve(2)) is still their parent: it has usage as well."""
    stat = read_stat(own_child)
    assert stat is not None
    child = adoptions.adopt(own_child, stat.start)
    async with asyncio.timeout(5):
        exit_ = await child.exited
    assert (exit_.code, exit_.known) == (6, True)
    assert exit_.cpu_s is not None
