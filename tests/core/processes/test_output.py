"""Where output is kept: on disk, in memory, and what happens when there is no room or no file."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sandbox_api.core.processes import Status
from sandbox_api.core.processes.follower import Follower
from sandbox_api.core.processes.framing import Unfinished, flush_lines, frame_lines
from sandbox_api.core.processes.journal import Kind
from sandbox_api.core.processes.output import MEMORY_MARKS, Output
from sandbox_api.core.processes.storage import RunMemory, new_storage
from sandbox_api.core.processes.tail import MARKER, read_tail
from tests.core.processes.conftest import Engine, OpenEngine, read_all, text

Eventually = Callable[..., Awaitable[object]]

MIB = 1 << 20


async def follow(output: Output) -> bytes:
    """Every line of an ended run."""
    framed = b""
    with Follower(output, frame_lines, Unfinished(), flush_lines) as follower:
        async with asyncio.timeout(10):
            while (chunk := await follower.next(5)) is not None:
                framed += chunk
    return framed


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode != 0:
        pytest.skip("only root mounts a small disk")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(disk: Path) -> Path:
    """Write a file until the disk is full."""
    ballast = disk / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError:
        return ballast
    finally:
        os.close(fd)


def grow(disk: Path) -> None:
    """Make room."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


async def test_g28_a_full_disk_loses_nothing(
    open_engine: OpenEngine, disk: Path, eventually: Eventually
) -> None:
    """The program waits, the daemon works on, and when space comes back all is there."""
    engine = await open_engine(directory=disk / "runs")
    os.mkfifo(disk / "fifo")
    lines = b"".join(b"%d\n" % n for n in range(300_000))
    process = await engine.start(f"cat {disk}/fifo; seq 0 299999", name="writer")
    ballast = fill(disk)
    os.close(os.open(disk / "fifo", os.O_WRONLY))
    await eventually(lambda: engine.processes.find("writer"))
    other = await engine.run("echo works; exit 3")
    assert (text(other.output), other.exit_code) == (b"works\n", 3)
    assert process.running
    ballast.unlink()
    grow(disk)
    assert await engine.processes.wait(process, 10)
    assert text(process.output) == lines


@pytest.mark.parametrize("early", [b"", b"early\n"])
async def test_g28_a_run_that_ends_on_a_full_disk_has_its_output(
    open_engine: OpenEngine, disk: Path, eventually: Eventually, early: bytes
) -> None:
    """What its pipes hold at the end is in its reply, and on the disk when that has room."""
    engine = await open_engine(directory=disk / "runs")
    os.mkfifo(disk / "fifo")
    say = f"echo {early.decode().strip()} >&2; " if early else ""
    process = await engine.start(f"{say}cat {disk}/fifo; echo err >&2; printf out; exit 4")
    await eventually(lambda: text(process.output) == early)
    ballast = fill(disk)
    os.close(os.open(disk / "fifo", os.O_WRONLY))
    assert await engine.processes.wait(process, 10)
    assert process.exit_code == 4
    tail = await read_tail(process.output, 1 << 16)
    assert (tail.stdout, tail.stderr) == ("out", early.decode() + "err\n")
    lines = await follow(process.output)
    assert sorted(lines.split()) == sorted(
        [*(b"stderr:" + line for line in early.split()), b"stderr:err", b"stdout:out"]
    )
    ballast.unlink()
    log = next((disk / "runs").glob("*/stdout.log"))
    await eventually(lambda: log.read_bytes() == b"out")
    assert await follow(process.output) == lines


async def test_g28_a_start_on_a_full_disk_runs_from_memory(
    open_engine: OpenEngine, disk: Path
) -> None:
    """It neither fails nor waits for space, even with more output than a pipe holds."""
    engine = await open_engine(directory=disk / "runs")
    fill(disk)
    process = await engine.run("seq 400000; echo done")
    assert process.status is Status.COMPLETED
    assert text(process.output).endswith(b"400000\ndone\n")
    assert list(engine.directory.iterdir()) == []


async def test_in_memory_a_stream_keeps_its_newest_mebibyte(open_engine: OpenEngine) -> None:
    """Without a directory nothing fails: output is bounded, and what is gone is a counted gap."""
    engine = await open_engine(memory=True)
    process = await engine.run("seq 1000000; echo done >&2")
    pieces = read_all(process.output)
    kept = b"".join(piece.data for piece in pieces if piece.kind is Kind.STDOUT)
    total = sum(len(b"%d\n" % n) for n in range(1, 1_000_001))
    lost = sum(piece.lost for piece in pieces)
    assert lost + len(kept) == total
    assert MIB <= len(kept) <= 2 * MIB
    assert kept.endswith(b"999999\n1000000\n")
    tail = await read_tail(process.output, 0)
    assert tail.stdout.startswith(MARKER.decode())
    assert tail.stderr == "done\n"
    lines = await follow(process.output)
    assert lines.startswith(b"stdout:[... truncated, %d bytes are gone ...]\n" % lost)


async def test_in_memory_many_short_lines_stay_bounded() -> None:
    """The order of two streams that alternate without end is bounded as well, and still counted."""
    output = Output(RunMemory(None))
    count = 3 * MEMORY_MARKS
    for _ in range(count // 2):
        for fd in output.write_fds:
            os.write(fd, b"a\n")
        for kind in (Kind.STDOUT, Kind.STDERR):
            output._readable(kind)
    output.finish()
    journal = output.journal
    assert journal.count - journal.first <= MEMORY_MARKS + 1
    pieces = read_all(output)
    assert sum(len(piece.data) + piece.lost for piece in pieces) == 2 * count
    tail = await read_tail(output, 0)
    assert len(tail.logs) == len(tail.stdout) + len(tail.stderr) == 2 * count
    output.close()


async def test_g09_what_the_pipes_hold_at_the_end_belongs_to_the_run(tmp_path: Path) -> None:
    """Bytes that nobody has read yet when the process ends come before the end, not after it."""
    output = Output(new_storage(tmp_path, None))
    os.write(output.write_fds[0], b"out\n")
    os.write(output.write_fds[1], b"err\n")
    output.finish()
    assert output.end == (4, 4)
    assert await follow(output) == b"stdout:out\nstderr:err\n"
    output.close()


async def test_removed_files_are_a_gap_not_a_failure(engine: Engine) -> None:
    """Somebody cleans up below the state directory: readers are told, nothing hangs or fails."""
    process = await engine.run("echo gone; echo too >&2")
    shutil.rmtree(next(engine.directory.iterdir()))
    assert sum(piece.lost for piece in read_all(process.output)) == len("gone\ntoo\n")
    assert b"truncated" in await follow(process.output)
    tail = await read_tail(process.output, 1 << 16)
    assert tail.stdout == tail.stderr == MARKER.decode()


async def test_a_removed_directory_does_not_disturb_a_running_process(
    engine: Engine, tmp_path: Path
) -> None:
    """Its output goes on: into new files where there were none yet."""
    os.mkfifo(tmp_path / "fifo")
    process = await engine.start(f"cat {tmp_path}/fifo; echo after; exit 3")
    shutil.rmtree(engine.directory)
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    assert await engine.processes.wait(process, 5)
    assert process.exit_code == 3
    assert text(process.output) == b"after\n"


async def test_without_a_directory_new_runs_go_to_memory(engine: Engine) -> None:
    """The next start works even when the whole state directory was removed."""
    shutil.rmtree(engine.directory)
    process = await engine.run("echo hi")
    assert text(process.output) == b"hi\n"
    assert isinstance(new_storage(engine.directory, None), RunMemory)


@pytest.mark.parametrize("limit", [1, 7, 64, 0])
async def test_the_tail_of_output(engine: Engine, limit: int) -> None:
    """The last bytes of each stream with a marker line before them; `logs` is in order."""
    process = await engine.run("echo first; echo err >&2; sleep 0.05; echo second")
    tail = await read_tail(process.output, limit)
    out, err = "first\nsecond\n", "err\n"
    marker = MARKER.decode()
    assert tail.stdout == (out if limit in {0, 64} else marker + out[-limit:])
    assert tail.stderr == (marker + err[-limit:] if limit == 1 else err)
    if limit in {0, 64}:
        assert tail.logs in {"first\nerr\nsecond\n", "err\nfirst\nsecond\n"}
    else:
        assert tail.logs.startswith(marker)
        assert sorted(tail.logs.removeprefix(marker)) == sorted(out[-limit:] + err[-limit:])


async def test_the_order_of_both_streams_is_kept(engine: Engine) -> None:
    """Where a program waits between its writes, replies show both streams as they came (Q23)."""
    command = "for n in 1 2 3; do echo o$n; sleep 0.03; echo e$n >&2; sleep 0.03; done"
    process = await engine.run(command)
    tail = await read_tail(process.output, 1 << 16)
    assert tail.logs == "o1\ne1\no2\ne2\no3\ne3\n"
    assert text(process.output).decode() == tail.logs


async def test_text_that_is_not_utf8(engine: Engine) -> None:
    """Bytes that are no text become U+FFFD in replies."""
    process = await engine.run(r"printf 'a\377b\303'")
    assert (await read_tail(process.output, 1 << 16)).stdout == "a\ufffdb\ufffd"


async def test_a_large_tail_leaves_the_loop_free(engine: Engine) -> None:
    """Megabytes are decoded beside the event loop."""
    process = await engine.run("seq 200000")
    tail = await read_tail(process.output, 0)
    assert tail.stdout.endswith("200000\n")
    assert tail.logs == tail.stdout
