"""Child status has one owner: exact for who is watched, and no zombie of who is not."""

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from sandbox_api.core.processes.oom import OomKills
from sandbox_api.core.processes.reaper import Child, Exit, Reaper, signal_name
from sandbox_api.core.processes.tree import read_stat

Eventually = Callable[..., Awaitable[object]]


@pytest.fixture
async def reaper() -> AsyncIterator[Reaper]:
    """A reaper of its own."""
    reaper = Reaper()
    yield reaper
    reaper.close()


def spawn(command: str) -> "subprocess.Popen[bytes]":
    """A child that nobody waits for but the reaper."""
    child = subprocess.Popen(["sh", "-c", command])
    child.returncode = 0
    return child


async def end_of(child: Child) -> Exit:
    """Its end, within a deadline."""
    async with asyncio.timeout(10):
        return await child.exited


async def test_g13_orphans_are_reaped_and_no_status_is_stolen(
    reaper: Reaper, eventually: Eventually
) -> None:
    """Of 200 children only half are watched; each of those keeps its exit code."""
    early = reaper.watch(spawn("sleep 0.1; exit 42"))
    reaper.reap_orphans()
    watched, others = [], []
    for code in range(100):
        others.append(spawn("exit 1"))
        watched.append(reaper.watch(spawn(f"exit {code}")))
    assert [(await end_of(child)).code for child in watched] == list(range(100))
    assert (await end_of(early)).code == 42
    await eventually(lambda: not any(read_stat(child.pid) for child in others))


async def test_who_has_ended_already_is_reaped(reaper: Reaper, eventually: Eventually) -> None:
    """A zombie from before gives no signal any more."""
    child = spawn("exit 1")
    await eventually(lambda: (stat := read_stat(child.pid)) is None or stat.dead)
    reaper.reap_orphans()
    assert read_stat(child.pid) is None


async def test_a_child_from_before_an_execve(reaper: Reaper) -> None:
    """A daemon that replaced itself watches children that it did not start."""
    popen = spawn("exit 5")
    assert (await end_of(reaper.watch_child(popen.pid, 0))).code == 5


@pytest.mark.parametrize("orphans", [True, False])
async def test_a_child_that_is_let_go_lives_on(reaper: Reaper, orphans: bool) -> None:
    """Its end is nobody's any more, or an orphan's."""
    if orphans:
        reaper.reap_orphans()
    popen = spawn("exec sleep 60")
    child = reaper.watch(popen)
    assert popen.pid in reaper
    reaper.release(child)
    assert popen.pid not in reaper
    os.kill(popen.pid, signal.SIGKILL)
    if not orphans:
        await asyncio.to_thread(os.waitpid, popen.pid, 0)
    assert not child.exited.done()


async def test_a_status_that_somebody_else_took(reaper: Reaper) -> None:
    """It is said to be unknown, and the daemon goes on."""
    popen = spawn("read x")
    with patch("os.wait4", side_effect=ChildProcessError):
        child = reaper.watch(popen)
        popen.kill()
        assert await end_of(child) == Exit(-1, known=False)
    await asyncio.to_thread(os.waitpid, popen.pid, 0)


async def test_without_pidfds_the_signal_tells(reaper: Reaper) -> None:
    """Of watched children only: others are not ours to wait for here."""
    other = spawn("exit 3")
    with patch("os.pidfd_open", side_effect=OSError(errno.ENOSYS, "none")):
        children = [reaper.watch(spawn(f"exit {code}")) for code in range(20)]
    assert [(await end_of(child)).code for child in children] == list(range(20))
    _, status = await asyncio.to_thread(os.waitpid, other.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3


class Counter:
    """A counter of OOM kills as the kernel would keep it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(3)

    def set(self, count: int) -> None:
        """The count is now this."""
        self.path.write_text(f"low 0\noom_kill_disable 0\noom_kill {count}\nlast 9\n")


@pytest.mark.parametrize(
    ("command", "rises", "expected"),
    [
        ("kill -9 $$", True, True),
        ("sh -c 'kill -9 $$'; exit $?", True, True),
        ("kill -9 $$", False, False),
        ("kill -15 $$", True, False),
        ("exit 1", True, False),
    ],
)
async def test_which_deaths_were_for_memory(
    tmp_path: Path, command: str, rises: bool, expected: bool
) -> None:
    """SIGKILL, or what a shell makes of it, while the counter rose."""
    counter = Counter(tmp_path / "events")
    reaper = Reaper(OomKills([counter.path]))
    child = reaper.watch(spawn(f"sleep 0.1; {command}"))
    counter.set(4 if rises else 3)
    assert (await end_of(child)).out_of_memory is expected
    reaper.close()
    reaper.oom_kills.close()


def test_each_kill_explains_one_death(tmp_path: Path) -> None:
    """Of two that died while the kernel killed one, the first one was it."""
    counter = Counter(tmp_path / "events")
    kills = OomKills([counter.path])
    assert kills.count() == 3
    counter.set(4)
    assert [kills.claim(3), kills.claim(3)] == [True, False]
    counter.set(6)
    assert [kills.claim(4), kills.claim(3), kills.claim(3)] == [True, True, False]
    kills.close()


def test_without_a_counter_nothing_is_claimed(tmp_path: Path) -> None:
    """Where the kernel does not count, nobody died for memory."""
    (tmp_path / "none").write_text("other 3\n")
    for kills in (OomKills(), OomKills([tmp_path / "none"])):
        assert (kills.count(), kills.claim(0)) == (0, False)
        kills.close()
    assert OomKills.nearest().count() >= 0


def test_names_of_signals() -> None:
    """By name, and by number where there is none."""
    assert (signal_name(9), signal_name(40)) == ("SIGKILL", "SIG40")
