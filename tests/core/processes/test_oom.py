"""Out of memory, for real."""

import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_api.core.processes import Status
from sandbox_api.core.processes.hierarchy import own_directory
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.oom import OomKills
from sandbox_api.core.processes.reaper import Reaper
from tests.core.processes.conftest import Engine, OpenEngine

LIMIT_BYTES = 48 << 20
EAT = shlex.join([sys.executable, "-I", "-S", "-c", "x = b'x' * (1 << 30)"])


@pytest.fixture
def small() -> Iterator[Path]:
    """A memory control group (version 1) of a few MB."""
    directory = own_directory("memory") / f"sandbox-api-test-{secrets.token_hex(4)}"
    try:
        directory.mkdir()
        (directory / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    except OSError as exc:
        pytest.skip(f"no memory control group (version 1) can be made: {exc}")
    yield directory
    directory.rmdir()


@pytest.fixture
async def engine(small: Path, open_engine: OpenEngine) -> Engine:
    """An engine that looks at that group's counter."""
    return await open_engine(host=Host(reaper=Reaper(OomKills([small / "memory.oom_control"]))))


@pytest.mark.parametrize("command", [f"exec {EAT}", f"{EAT}; exit $?"])
async def test_a_run_that_the_kernel_ends_for_memory(
    engine: Engine, small: Path, command: str
) -> None:
    """It failed, and says why: as itself, and as the last program of its shell."""
    process = await engine.run(f"echo $$ > {small}/cgroup.procs; {command}", timeout_s=60)
    assert (process.status, process.oom_killed) == (Status.FAILED, True)
    assert (process.exit_code, process.signal) in {(-1, "SIGKILL"), (137, None)}


async def test_a_kill_of_somebody_else(engine: Engine) -> None:
    """Only the kernel's own are for memory."""
    process = await engine.run("kill -9 $$")
    assert (process.signal, process.oom_killed) == ("SIGKILL", False)


async def test_a_kill_of_ours(engine: Engine) -> None:
    """A process that was to end anyway did not die for memory."""
    process = await engine.start("exec sleep 60")
    process.child.exited.add_done_callback(lambda _: None)
    await engine.processes.kill(process.name)
    assert (process.status, process.oom_killed) == (Status.KILLED, False)


def test_where_it_is_counted() -> None:
    """In the files of this machine there is some counter."""
    kills = OomKills.nearest()
    assert kills.count() >= 0
    assert Path(f"/proc/self/fd/{kills._fd}").exists() or not os.path.exists("/proc/vmstat")
    kills.close()
    assert kills.count() == 0
