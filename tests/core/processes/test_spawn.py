"""How a child is started and its end seen, on kernels and for users that are not like ours."""

import asyncio
import errno
import os
from unittest.mock import patch

import pytest

from sandbox_api.core.identity import Identity
from sandbox_api.core.processes import Status
from tests.core.processes.conftest import Engine, OpenEngine, text

NOBODY = Identity(65534, 65534, (65534, 4242), "somebody", "/nonexistent")


async def test_g10_without_pidfds(engine: Engine) -> None:
    """On an old kernel, or under an old seccomp filter, SIGCHLD tells of each end."""
    with patch("os.pidfd_open", side_effect=OSError(errno.ENOSYS, "none")):
        processes = await asyncio.gather(*[engine.run(f"exit {code}") for code in range(40)])
        assert [process.exit_code for process in processes] == list(range(40))
        process = await engine.start("exec sleep 60")
        await engine.processes.kill(process.name)
        assert process.status is Status.KILLED


async def test_an_engine_that_closes_lets_children_live(open_engine: OpenEngine) -> None:
    """Nothing waits for them, and nothing of them is left open in the daemon."""
    before = sorted(os.listdir("/proc/self/fd"))
    engine = await open_engine()
    process = await engine.start("exec sleep 60")
    with patch("os.pidfd_open", side_effect=OSError(errno.ENOSYS, "none")):
        other = await engine.start("exec sleep 60")
    engine.processes.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    for pid in (process.pid, other.pid):
        os.kill(pid, 9)  # fails where it is gone
        await asyncio.to_thread(os.waitpid, pid, 0)


async def test_the_oom_killer_takes_children_first(engine: Engine) -> None:
    """A child has 500 more than the daemon would."""
    process = await engine.run("sleep 0.1; cat /proc/self/oom_score_adj")
    assert text(process.output) == b"500\n"


@pytest.fixture(params=[False, True], ids=["disk", "memory"])
async def as_nobody(request: pytest.FixtureRequest, open_engine: OpenEngine) -> Engine:
    """An engine whose workload user is not the daemon's."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes somebody else")
    return await open_engine(identity=NOBODY, memory=request.param)


async def test_g29_commands_run_as_the_workload_user(as_nobody: Engine) -> None:
    """With its ids, its groups and its HOME, USER and LOGNAME, whatever the request says."""
    command = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME"
    process = await as_nobody.run(command, env={"HOME": "/root", "USER": "root"})
    said = text(process.output).decode().splitlines()
    assert said[:2] == ["65534", "65534"]
    assert set(said[2].split()) == {"65534", "4242"}
    assert said[3] == "/nonexistent somebody somebody"


async def test_g29_the_workload_user_can_open_its_streams_again(as_nobody: Engine) -> None:
    """`> /dev/stderr` works for it too, though nothing else below the state directory does."""
    process = await as_nobody.run("echo out > /dev/stdout; echo err > /dev/stderr")
    assert sorted(text(process.output).split()) == [b"err", b"out"]
    assert process.exit_code == 0
