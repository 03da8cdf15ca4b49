"""What only a daemon in its own process shows: memory, shutdown, descriptors, its own death."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.api.processes.conftest import Gate, Json

StartDaemon = Callable[..., SimpleNamespace]
Eventually = Callable[..., Awaitable[object]]

MIB = 1 << 20


class Remote:
    """A real daemon over its port."""

    def __init__(self, daemon: SimpleNamespace, session: ClientSession) -> None:
        self.daemon = daemon
        self.session = session
        self.url = f"http://127.0.0.1:{daemon.port}/process"

    async def run(self, command: str, *, wait: bool = True, **request: object) -> Json:
        """`POST /process`."""
        body = {"command": command, "waitForCompletion": wait, **request}
        async with self.session.post(self.url, json=body) as response:
            assert response.status == 200, await response.text()
            reply: Json = await response.json()
            return reply

    async def get(self, path: str) -> Any:  # noqa: ANN401 - JSON is any
        """A JSON reply."""
        async with self.session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    @asynccontextmanager
    async def connect(self, path: str) -> AsyncIterator[asyncio.StreamReader]:
        """A GET whose bytes are seen as they are on the wire."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.daemon.port)
        writer.write(f"GET /process{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        try:
            yield reader
        finally:
            writer.close()

    def memory_bytes(self) -> int:
        """The daemon's resident set."""
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def environment(self) -> set[str]:
        """What it was started with, as far as it has not been erased."""
        text = Path(f"/proc/{self.daemon.process.pid}/environ").read_text()
        return {line for line in text.split("\0") if "=" in line}

    def descriptors(self) -> int:
        """How many it holds."""
        return len(os.listdir(f"/proc/{self.daemon.process.pid}/fd"))


@pytest.fixture
async def open_remote(start_daemon: StartDaemon) -> AsyncIterator[Callable[..., Remote]]:
    """`open_remote(env={})`: a daemon of its own."""
    async with ClientSession() as session:
        yield lambda **options: Remote(start_daemon(**options), session)


@pytest.fixture
def remote(open_remote: Callable[..., Remote]) -> Remote:
    """A daemon with default settings."""
    return open_remote()


async def test_g17_a_child_of_the_daemon(open_remote: Callable[..., Remote]) -> None:
    """Descriptors 0, 1, 2, and the launch environment without the token."""
    token = "s3cret-of-the-test"
    remote = open_remote(env={"SANDBOX_API_TOKEN": token, "MINE": "kept"})
    remote.session.headers["Authorization"] = f"Bearer {token}"
    assert (await remote.run("ls /proc/$$/fd; true"))["stdout"].split() == ["0", "1", "2"]
    reply = await remote.run("tr '\\0' '\\n' < /proc/$$/environ")
    launch = remote.environment() - {f"SANDBOX_API_TOKEN={token}"}
    assert set(reply["stdout"].splitlines()) == launch
    assert "MINE=kept" in launch
    assert token not in reply["stdout"]


async def test_g07_a_stream_of_a_live_process_is_cut_when_the_daemon_stops(
    remote: Remote, gate: Gate, eventually: Eventually
) -> None:
    """No final chunk, so no client reads it as an end; the ended one has it; the child lives on."""
    mark = gate.path.with_name("mark")
    await remote.run("echo over", name="ended")
    reply = await remote.run(f"echo up; cat {gate.path}; : > {mark}", name="live", wait=False)
    async with (
        remote.connect("/live/logs/stream") as live,
        remote.connect("/ended/logs/stream") as ended,
        asyncio.timeout(10),
    ):
        assert (await ended.readuntil(b"0\r\n\r\n")).endswith(b"stdout:over\n\r\n0\r\n\r\n")
        await live.readuntil(b"stdout:up\n\r\n")
        remote.daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await live.readuntil(b"0\r\n\r\n")
    assert await asyncio.to_thread(remote.daemon.process.wait, 5) == 0
    os.kill(int(reply["pid"]), 0)
    await gate.open()
    await eventually(mark.exists)


async def test_g14_a_child_survives_the_death_of_the_daemon(
    remote: Remote, gate: Gate, eventually: Eventually
) -> None:
    """After a SIGKILL of the daemon its writes succeed: no SIGPIPE while nobody reads."""
    mark = gate.path.with_name("mark")
    await remote.run(f"cat {gate.path}; echo more && : > {mark}", wait=False)
    remote.daemon.process.kill()
    await asyncio.to_thread(remote.daemon.process.wait, 5)
    await gate.open()
    await eventually(mark.exists)


async def test_g01_a_reader_that_stalls_disturbs_nobody(remote: Remote) -> None:
    """One reads nothing, one gets 50 MB whole, and the daemon stays small."""
    line = "x" * 99
    await remote.run("true")
    before = remote.memory_bytes()
    async with remote.connect("/big/logs/stream"):
        pass  # warm: unknown name
    await remote.run(f"sleep 0.2; yes {line} | head -n 500000", name="big", wait=False)
    async with remote.connect("/big/logs/stream"), asyncio.timeout(60):
        async with remote.session.get(remote.url + "/big/logs/stream") as live:
            expected = f"stdout:{line}\n".encode()
            count, left = 0, b""
            async for chunk in live.content.iter_chunked(MIB):
                whole, newline, left = (left + chunk).rpartition(b"\n")
                count += (whole + newline).count(expected)
        assert (count, left) == (500_000, b"")
        assert remote.memory_bytes() - before < 50 * MIB
        assert (await remote.get("/big"))["status"] == "completed"


async def test_g02_a_million_lines(remote: Remote) -> None:
    """None lost, none doubled, live and in a replay."""
    expected = b"".join(b"stdout:%d\n" % n for n in range(1, 1_000_001))
    await remote.run("seq 1000000", name="seq", wait=False)
    for _ in range(2):
        async with (
            asyncio.timeout(60),
            remote.session.get(remote.url + "/seq/logs/stream") as response,
        ):
            assert await response.read() == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_g05_a_gigabyte_that_nobody_follows(
    open_remote: Callable[..., Remote], tmp_path: Path
) -> None:
    """It costs little memory and a bounded piece of disk, others are served meanwhile, and what was
    cut is told to the byte."""
    budget = 64 * MIB
    remote = open_remote(env={"SANDBOX_MAX_LOG_BYTES_TOTAL": str(budget)})
    await remote.run("true")
    before = remote.memory_bytes()
    await remote.run("yes 0123456789abcde | head -c 1073741824; echo end", name="big", wait=False)
    health = remote.url.replace("/process", "/health")
    peak, served = before, 0
    async with asyncio.timeout(240):
        while (await remote.get("/big"))["status"] == "running":
            async with remote.session.get(health) as response:
                assert response.status == 200
            served += 1
            peak = max(peak, remote.memory_bytes())
            assert stored_bytes(tmp_path / "state") < budget + 16 * MIB
    assert served > 3
    assert peak - before < 50 * MIB
    total = gone = 0
    async with remote.session.get(remote.url + "/big/logs/stream?format=ndjson") as response:
        async for line in response.content:
            event = json.loads(line)
            gone += event.get("bytes", 0)
            total += len(event.get("data", ""))
    assert gone > 900 * MIB
    assert gone + total == 1073741824 + len("end\n")


def stored_bytes(directory: Path) -> int:
    """What lies below a directory, in blocks of its disk."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


async def test_g19_execs_leave_nothing_behind(remote: Remote) -> None:
    """300 commands over HTTP later the daemon holds as many descriptors as after 30."""
    for _ in range(30):
        await remote.run("echo x")
    before = remote.descriptors()
    for _ in range(300):
        await remote.run("echo x")
    assert remote.descriptors() == before


async def test_without_a_state_directory(open_remote: Callable[..., Remote]) -> None:
    """It says so once, and works from memory."""
    remote = open_remote(env={"SANDBOX_STATE_DIR": "/proc/none"})
    reply = await remote.run("seq 500000", name="m")
    assert reply["stdout"].endswith("\n500000\n")
    lines = [line for line in remote.daemon.log() if "kept in memory" in json.dumps(line)]
    assert len(lines) == 1
    async with remote.session.get(remote.url + "/m/logs/stream") as response:
        text = await response.text()
    assert text.startswith("stdout:[... truncated, ")
    assert text.endswith("\nstdout:500000\n")


async def test_g18_g29_what_is_stored_is_private(remote: Remote, tmp_path: Path) -> None:
    """Nobody else reads logs: every directory is 0700, every file 0600 (Q24)."""
    await remote.run("echo secret; echo too >&2", name="../../escape")
    entries = await asyncio.to_thread(lambda: [*(tmp_path / "state").rglob("*")])
    assert any(entry.name == "stdout.log" for entry in entries)
    modes = {entry: entry.stat().st_mode & 0o777 for entry in entries}
    assert {mode for entry, mode in modes.items() if entry.is_dir()} == {0o700}
    assert {mode for entry, mode in modes.items() if entry.is_file()} == {0o600}
    assert not any(
        "escape" in entry.name for entry in await asyncio.to_thread(os.scandir, tmp_path)
    )
