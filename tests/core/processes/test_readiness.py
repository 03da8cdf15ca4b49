"""Waiting for ports: ready as soon as the process listens, an error as soon as it cannot."""

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from sandbox_api.core.processes import Process
from sandbox_api.core.processes.readiness import explain_missing, wait_for_ports
from sandbox_api.errors import FailedError
from tests.core.processes.conftest import Engine, text
from tests.serving import free_port, serve

Eventually = Callable[..., Awaitable[object]]


DAEMON = "setsid -f sh -c '{}'; exec sleep 60"
"""A server that leaves both its session and its parent."""


async def wait(process: Process, *ports: int, timeout_s: float | None = 10.0) -> Sequence[int]:
    """Wait for ports; the test itself has a deadline too."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    async with asyncio.timeout(15):
        return await wait_for_ports(process, ports, deadline)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
async def test_g16_it_is_ready_when_it_listens(engine: Engine, kind: str, address: str) -> None:
    """TCP and UDP, both families; several ports, one of them named twice."""
    one, other = free_port(), free_port()
    process = await engine.start(serve(one, other, kind=kind, address=address))
    assert await wait(process, one, other, one, timeout_s=None) == []
    assert process.running


async def test_g16_it_polls_nothing_afterwards(engine: Engine) -> None:
    """Nobody looks at /proc once the wait is over, in whatever way it ended."""
    port = free_port()
    process = await engine.start(serve(port))
    assert await wait(process, port) == []
    assert await wait(process, free_port(), timeout_s=0.05) != []
    abandoned = asyncio.create_task(wait(process, free_port(), timeout_s=None))
    await asyncio.sleep(0)
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    await asyncio.gather(*[engine.run("exit 3") for _ in range(2)])
    readiness = "sandbox_api.core.processes.readiness.read_sockets"
    with patch(readiness, side_effect=AssertionError("a poller is left")) as look:
        await asyncio.sleep(0.3)  # longer than the longest pause between two looks
    look.assert_not_called()


@pytest.mark.parametrize(
    "shape", ["{}", "({})", "{} & wait", "setsid -w sh -c '{}'", "sh -c '({} & wait); :'", DAEMON]
)
async def test_the_whole_subtree_counts(engine: Engine, shape: str) -> None:
    """A server that a script starts is the script's, in a session of its own too."""
    port = free_port()
    process = await engine.start(shape.format('eval "$SERVE"'), env={"SERVE": serve(port)})
    assert await wait(process, port) == []


async def test_another_process_does_not_count(engine: Engine, eventually: Eventually) -> None:
    """A port that is open already is somebody else's."""
    port = free_port()
    other = await engine.start(serve(port))
    await eventually(lambda: text(other.output) == b"serving\n")
    process = await engine.start("exec sleep 60")
    assert await wait(process, port, timeout_s=0.3) == [port]
    assert await explain_missing(process, [port]) == (
        f"nothing of the process listens on port {port}"
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_g16_loopback_is_named(engine: Engine, address: str) -> None:
    """Who binds to loopback only is told so: from outside the sandbox it cannot be reached."""
    port = free_port()
    process = await engine.start(serve(port, address=address))
    assert await wait(process, port, timeout_s=0.5) == [port]
    assert await explain_missing(process, [port]) == (
        f"port {port} listens on {address} only: bind it to 0.0.0.0 or ::"
    )


async def test_a_port_of_a_connection_is_no_server(engine: Engine, eventually: Eventually) -> None:
    """Who connects holds a port as well; others cannot connect to that."""
    port = free_port()
    server = await engine.start(serve(port))
    await eventually(lambda: text(server.output) == b"serving\n")
    program = (
        "import socket, time; one = socket.create_connection(('127.0.0.1', int(input())));"
        "print(one.getsockname()[1], flush=True); time.sleep(60)"
    )
    command = shlex.join([sys.executable, "-I", "-S", "-c", program])
    process = await engine.start(f"echo {port} | {command}")
    await eventually(lambda: text(process.output))
    own = int(text(process.output))
    assert await wait(process, own, timeout_s=0) == [own]
    assert await explain_missing(process, [own]) == (
        f"port {own} is in use by the process, but does not listen"
    )


async def test_what_is_missing_is_told_in_few_words(engine: Engine) -> None:
    """A request may name any number of ports, possible ones or not."""
    process = await engine.start("exec sleep 60")
    missing = await wait(process, *range(-5, 100_000), timeout_s=0)
    assert len(missing) > 90_000
    explained = await explain_missing(process, missing)
    assert explained.startswith("nothing of the process listens on port -5; ")
    assert explained.endswith(f"; and {len(missing) - 10} more")
    assert len(explained) < 1000
    await engine.processes.kill(process.name)
    with pytest.raises(FailedError, match=r"on port -5, -4, .* and \d+ more; its") as failed:
        await wait(process, *missing)
    assert len(failed.value.message) < 1000


@pytest.mark.parametrize(
    ("command", "how"), [("exit 3", "exit code 3"), ("kill -9 $$", "signal SIGKILL")]
)
async def test_g16_it_fails_when_the_process_exits(engine: Engine, command: str, how: str) -> None:
    """At once, not at the deadline, also without one."""
    port = free_port()
    process = await engine.start(f"echo no >&2; {command}", name="brief")
    with pytest.raises(FailedError) as failed:
        await wait(process, port, port + 1, timeout_s=None)
    assert failed.value.message == (
        f"process ended with {how} before it listened on port {port}, {port + 1}; "
        "its output tells why"
    )
    assert failed.value.fields == {"pid": str(process.pid), "name": "brief"}


async def test_what_it_leaves_behind_may_listen(engine: Engine, eventually: Eventually) -> None:
    """A command that starts a server in the background and ends is ready all the same."""
    port = free_port()
    process = await engine.start(f"{serve(port)} & read line", stdin=True)
    await eventually(lambda: text(process.output) == b"serving\n")
    assert process.stdin is not None
    process.stdin.close()
    assert await engine.processes.wait(process, 5)
    assert await wait(process, port) == []
    await engine.processes.kill(str(process.pid))


async def test_g16_a_pending_restart_is_waited_for(engine: Engine, tmp_path: Path) -> None:
    """The first run fails, the second one listens; then the pids of the second one count."""
    port = free_port()
    process = await engine.start(
        f"test -e again && exec {serve(port)}; : > again; exit 1",
        working_dir=str(tmp_path),
        restart_on_failure=True,
        max_restarts=1,
    )
    assert await wait(process, port) == []
    assert process.restart_count == 1


async def test_g16_it_fails_after_the_last_restart(engine: Engine) -> None:
    """Not after the first one."""
    process = await engine.start("exit 7", restart_on_failure=True, max_restarts=1)
    with pytest.raises(FailedError, match="exit code 7"):
        await wait(process, free_port(), timeout_s=None)
    assert process.restart_count == 1
