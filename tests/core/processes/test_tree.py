"""Finding what a run has started, and signals that hit nobody else."""

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from sandbox_api.core.processes.tree import (
    Traces,
    all_stats,
    find_tree,
    read_stat,
    send_signal,
    wait_for_ends,
)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    """A child that sleeps, in a session of its own."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_reads_itself() -> None:
    """The fields of proc(5), for a name with spaces and parentheses as well."""
    stat = read_stat(os.getpid())
    assert stat is not None
    assert (stat.pid, stat.parent, stat.group) == (os.getpid(), os.getppid(), os.getpgid(0))
    assert read_stat(2**22 + 1) is None
    assert os.getpid() in {stat.pid for stat in all_stats()}


def test_names_that_hold_anything() -> None:
    """A program's name cannot forge the fields after it."""
    script = "printf 'a) Z 1 (b' > /proc/$$/comm; echo; read x"
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = read_stat(process.pid)
        process.kill()
    assert stat is not None
    assert (stat.name, stat.parent) == ("a) Z 1 (b", os.getpid())


def test_a_recycled_leader_is_a_stranger(child: "subprocess.Popen[bytes]") -> None:
    """After the leader was reaped its number may be another's, with a session of its own."""
    assert [stat.pid for stat in find_tree(child.pid, reaped=False)] == [child.pid]
    assert find_tree(child.pid, reaped=True) == []


def test_a_known_member_is_found_without_its_parent(child: "subprocess.Popen[bytes]") -> None:
    """By pid and start time: one that has the pid only is a stranger."""
    stat = read_stat(child.pid)
    assert stat is not None
    nobody = 2**22 + 1
    found = find_tree(nobody, reaped=True, traces=Traces(known=[stat]))
    assert [stat.pid for stat in found] == [child.pid]
    assert find_tree(nobody, reaped=True, traces=Traces(known=[stat._replace(start=1)])) == []


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_signal_hits_only_who_was_seen(child: "subprocess.Popen[bytes]", pidfds: bool) -> None:
    """A recycled pid gets nothing; with a kernel that has no pidfds too."""
    stat = read_stat(child.pid)
    assert stat is not None
    refusal = None if pidfds else OSError(errno.ENOSYS, "none")
    with patch("os.pidfd_open", side_effect=refusal, wraps=os.pidfd_open):
        send_signal([stat._replace(start=1)], signal.SIGKILL)
        assert child.poll() is None
        send_signal([stat._replace(pid=2**22 + 1), stat], signal.SIGTERM)
    assert child.wait(5) == -signal.SIGTERM


async def test_waits_for_the_ends_of_several(child: "subprocess.Popen[bytes]") -> None:
    """Until all have ended, or the deadline."""
    loop = asyncio.get_running_loop()
    stat = read_stat(child.pid)
    assert stat is not None
    begin = loop.time()
    await wait_for_ends([stat], begin + 0.05)
    assert loop.time() - begin >= 0.05
    child.kill()
    async with asyncio.timeout(5):
        await wait_for_ends([stat, stat._replace(pid=2**22 + 1)], loop.time() + 60)
    with patch("os.pidfd_open", side_effect=OSError(errno.ENOSYS, "none")):
        await wait_for_ends([stat], loop.time() + 60)
