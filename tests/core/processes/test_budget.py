"""Output is bounded: what goes first, what stays, and that readers are told (G05)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from sandbox_api.core.processes import Process
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines
from sandbox_api.core.processes.tail import MARKER, read_tail
from tests.core.processes.conftest import OpenEngine

MIB = 1 << 20
LINES = "seq -f '%09.0f 3456789012345678901234567890' "


def stored_bytes(directory: Path) -> int:
    """What the logs below a directory take on disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*.log"))


async def test_ended_runs_give_way_the_oldest_first(open_engine: OpenEngine) -> None:
    """What runs, and what ended last, keeps its output; the oldest says how much is gone."""
    engine = await open_engine(max_log_bytes=3 * MIB, keep_running_bytes=MIB)
    ended = [await engine.run(LINES + "30000", name=f"run{n}") for n in range(4)]

    assert stored_bytes(engine.directory) <= 3 * MIB
    first = await read_tail(ended[0].output, 0)
    last = await read_tail(ended[-1].output, 0)
    assert first.stdout.startswith(MARKER.decode())
    assert len(first.stdout) < 5000
    assert last.stdout.count("\n") == 30000
    assert ended[0].exit_code == 0


async def test_g05_a_running_run_keeps_its_tail(open_engine: OpenEngine) -> None:
    """20 MB that nobody follows take a bounded piece of disk, and the end of them is there."""
    engine = await open_engine(max_log_bytes=4 * MIB, keep_running_bytes=MIB)
    process = await engine.start(LINES + "500000; exec sleep 60", name="flood")
    await _has_written(process, 500000 * 39)

    assert stored_bytes(engine.directory) <= 5 * MIB
    text = await read_tail(process.output, 0)
    assert text.stdout.startswith(MARKER.decode())
    assert text.stdout.endswith("000500000 3456789012345678901234567890\n")
    assert process.output.kept_bytes >= MIB


async def test_a_late_follower_is_told_what_is_gone(open_engine: OpenEngine) -> None:
    """The bytes of the gap and those that follow it are all that was written."""
    engine = await open_engine(max_log_bytes=2 * MIB, keep_running_bytes=MIB)
    process = await engine.run(LINES + "200000", name="flood")
    lines = (await _follow(process)).split(b"\n")

    gone = int(lines[0].split()[2])
    rest = sum(len(line) - len(b"stdout:") + 1 for line in lines[1:-1])
    assert lines[0].startswith(b"stdout:[... truncated, ")
    assert gone + rest == 200000 * 39
    assert lines[-2] == b"stdout:000200000 3456789012345678901234567890"


async def test_a_follower_that_moves_loses_nothing(open_engine: OpenEngine) -> None:
    """The head is cut only behind a follower that keeps up, where that is enough."""
    engine = await open_engine(max_log_bytes=14 * MIB, keep_running_bytes=MIB)
    process = await engine.start("read go; " + LINES + "400000", name="flood", stdin=True)
    assert process.stdin is not None
    following = asyncio.ensure_future(_follow(process))
    await asyncio.sleep(0)
    await process.stdin.write(_one(b"\n"))
    lines = (await following).split(b"\n")

    assert len(lines) == 400001
    assert not any(b"truncated" in line for line in lines[:2])
    assert stored_bytes(engine.directory) <= 15 * MIB


async def test_memory_is_bounded_over_many_runs(open_engine: OpenEngine) -> None:
    """Without a directory, ended runs give their memory back."""
    engine = await open_engine(memory=True, max_log_bytes=3 * MIB)
    ended = [await engine.run(LINES + "25000", name=f"run{n}") for n in range(8)]

    kept = sum(process.output.kept_bytes for process in ended)
    assert kept <= 3 * MIB
    assert (await read_tail(ended[-1].output, 0)).stdout.endswith("\n")


async def test_what_was_cut_stays_cut_for_the_next_daemon(open_engine: OpenEngine) -> None:
    """A restart finds where the data begins; no reader ever sees the hole as NUL bytes."""
    engine = await open_engine(max_log_bytes=2 * MIB, keep_running_bytes=MIB)
    process = await engine.run(LINES + "200000", name="flood")
    before = await read_tail(process.output, 0)
    engine.processes.close()

    again = await open_engine(max_log_bytes=2 * MIB)
    found = again.processes.find("flood")
    assert found is not None
    assert found is not process
    assert await read_tail(found.output, 0) == before
    assert b"\0" not in await _follow(found)


async def test_old_records_are_forgotten(open_engine: OpenEngine) -> None:
    """An ended process is remembered for a time, then its record and its output go."""
    engine = await open_engine(max_record_age_s=0.0)
    await engine.run("echo old", name="old")
    await engine.run("echo new", name="new")

    assert engine.processes.find("old") is None
    assert len(list(engine.directory.glob("*-*"))) == 1
    assert len(list(engine.records.glob("*.json"))) == 1


async def _one(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


async def _follow(process: Process) -> bytes:
    got = bytearray()
    with Follower(process.output, frame_lines, Unfinished(), flush_lines) as follower:
        while (framed := await follower.next(5.0)) is not None:
            got += framed
            await asyncio.sleep(0)
    return bytes(got)


async def _has_written(process: Process, count: int) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while process.output.position.order < count:
        assert await process.output.changed(deadline), "not within 20 s"
