"""How a child is started and its end seen, on kernels and for users that are not like ours."""

import asyncio
import errno
import importlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from sandbox_api.core.identity import Identity
from sandbox_api.core.processes import Status
from sandbox_api.errors import FailedError, InvalidError
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


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user reaches; tmp_path lies in a private one."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


async def test_g29_the_directory_is_entered_as_the_workload_user(
    as_nobody: Engine, open_directory: Path
) -> None:
    """What it may not enter is refused, though the daemon could; a link is no way around."""
    locked, link = open_directory / "locked", open_directory / "link"
    locked.mkdir(mode=0o700)
    link.symlink_to(locked)
    for directory in (locked, link):
        with pytest.raises(FailedError, match=r"could not access .*: [Pp]ermission denied"):
            await as_nobody.start("touch x", working_dir=str(directory))
    locked.chmod(0o711)  # it may enter, and not list
    process = await as_nobody.run("pwd", working_dir=str(locked))
    assert text(process.output).decode() == f"{locked}\n"


async def test_a_name_that_is_taken_while_the_directory_is_looked_at(engine: Engine) -> None:
    """Of two at the same time, one gets the name."""
    starts = [engine.start("exec sleep 60", name="x", working_dir="/") for _ in range(5)]
    outcomes = await asyncio.gather(*starts, return_exceptions=True)
    assert len([one for one in outcomes if isinstance(one, InvalidError)]) == 4


async def test_a_stop_while_the_directory_of_a_restart_is_looked_at(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The restart does not come; the process was stopped."""
    supervision = importlib.import_module("sandbox_api.core.processes.supervision")
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 0.01)
    spec = {"restart_on_failure": True, "max_restarts": -1, "working_dir": str(tmp_path)}
    process = await engine.start("echo run; read line; exit 1", name="x", stdin=True, **spec)
    looking, go_on = threading.Event(), threading.Event()

    def look(*_: object) -> None:
        looking.set()
        go_on.wait(5)

    engines = importlib.import_module("sandbox_api.core.processes.processes")
    monkeypatch.setattr(engines, "check_directory", look)
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.to_thread(looking.wait, 5)
    stopping = asyncio.create_task(engine.processes.stop("x"))
    await process.wanted.wait()
    go_on.set()
    assert (await stopping).status is Status.STOPPED
    assert text(process.output).count(b"run\n") == 1
