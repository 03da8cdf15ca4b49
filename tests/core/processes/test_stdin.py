"""A child's stdin: nothing lost, nothing mixed, and nobody waits for ever."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256

import pytest

from sandbox_api.core.processes.stdin import Stdin
from sandbox_api.errors import ConflictError, FailedError, UnavailableError
from tests.core.processes.conftest import Engine, OpenEngine, text

Eventually = Callable[..., Awaitable[object]]

PIPE_BYTES = 1 << 16
STALL_S = 0.2


class Child:
    """The reading end, as a child would hold it."""

    def __init__(self, read_fd: int, stdin: Stdin) -> None:
        self.fd = read_fd
        self.stdin = stdin

    def read(self, count: int) -> bytes:
        """Take what is there, at most so much."""
        return os.read(self.fd, count)


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    """A child that reads when the test says so, and may stall for a short while only."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    stdin = Stdin(write_fd, lambda: None, STALL_S)
    yield Child(read_fd, stdin)
    stdin.close()
    os.close(read_fd)


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    """A body."""
    for one in data:
        yield one


async def test_megabytes_arrive_as_they_were_sent(engine: Engine) -> None:
    """At the pace of the child, which ends at the end of file."""
    process = await engine.start("sleep 0.1; sha256sum", stdin=True)
    assert process.stdin is not None
    data = os.urandom(8 << 20)
    parts = [data[at : at + 300_000] for at in range(0, len(data), 300_000)]
    await process.stdin.write(chunks(*parts))
    process.stdin.close()
    assert await engine.processes.wait(process, 10)
    assert text(process.output).split()[0].decode() == sha256(data).hexdigest()


async def test_writers_take_turns(child: Child) -> None:
    """Bodies of several chunks, each larger than the pipe, come one after the other."""
    bodies = [bytes([65 + number]) * (3 * PIPE_BYTES) for number in range(4)]
    writes = [
        asyncio.create_task(
            child.stdin.write(chunks(body[:10], body[10:PIPE_BYTES], body[PIPE_BYTES:]))
        )
        for body in bodies
    ]
    got = b""
    while len(got) < sum(map(len, bodies)):
        got += await asyncio.to_thread(child.read, 1 << 20)
    await asyncio.gather(*writes)
    assert got == b"".join(bodies)


async def test_what_comes_is_handed_on_at_once(child: Child) -> None:
    """A body that is still coming is no file: its first line is read before the second is sent."""
    more: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while line := await more.get():
            yield line

    writing = asyncio.create_task(child.stdin.write(body()))
    for line in (b"one\n", b"two\n"):
        more.put_nowait(line)
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(child.read, 100) == line
    more.put_nowait(b"")
    await writing


async def test_nobody_reads(child: Child) -> None:
    """After a while that is an error; what fitted is counted and can be read."""
    with pytest.raises(UnavailableError, match=r"read nothing from its stdin for 0\.2 s") as full:
        await child.stdin.write(chunks(b"x" * PIPE_BYTES, b"y"))
    assert full.value.fields == {"written": PIPE_BYTES}
    assert child.read(PIPE_BYTES) == b"x" * PIPE_BYTES
    await child.stdin.write(chunks(b"again"))
    assert child.read(100) == b"again"


async def test_who_reads_slowly_is_waited_for(child: Child) -> None:
    """A full pipe has no room until a page is read: bytes that are taken count, not pages."""
    writing = asyncio.create_task(child.stdin.write(chunks(b"x" * (PIPE_BYTES + 1))))
    loop = asyncio.get_running_loop()
    until = loop.time() + 3 * STALL_S
    while loop.time() < until:
        await asyncio.sleep(STALL_S / 4)
        assert not writing.done()
        assert child.read(1) == b"x"
    child.read(PIPE_BYTES)
    async with asyncio.timeout(5):
        await writing


async def test_a_writer_without_an_end_does_not_hold_others_for_ever(child: Child) -> None:
    """They are told to try again, and nothing of theirs was written."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        begun.set()
        await never.wait()

    first = asyncio.create_task(child.stdin.write(body()))
    await begun.wait()
    with pytest.raises(UnavailableError, match="another request has been writing") as refused:
        await child.stdin.write(chunks(b"mine"))
    assert refused.value.fields == {"written": 0}
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await child.stdin.write(chunks(b" and mine"))
    assert child.read(100) == b"begun and mine"


async def test_a_close_ends_a_write_that_waits(child: Child) -> None:
    """The child reads what came before, then the end of file."""
    writing = asyncio.create_task(child.stdin.write(chunks(b"x" * (PIPE_BYTES + 1))))
    await asyncio.sleep(0)
    child.stdin.close()
    with pytest.raises(ConflictError, match="was closed") as closed:
        await writing
    assert closed.value.fields == {"written": PIPE_BYTES}
    assert not child.stdin.open
    child.stdin.close()
    assert len(child.read(1 << 20)) == PIPE_BYTES
    assert child.read(1) == b""


async def test_a_process_that_closes_its_stdin(engine: Engine, eventually: Eventually) -> None:
    """The next write is a conflict, and so are all after it."""
    process = await engine.start("exec < /dev/null; echo closed; exec sleep 60", stdin=True)
    assert process.stdin is not None
    await eventually(lambda: text(process.output) == b"closed\n")
    with pytest.raises(ConflictError, match="has closed its stdin"):
        await process.stdin.write(chunks(b"x"))
    assert not process.stdin.open


async def test_the_end_of_a_process_ends_a_write(engine: Engine) -> None:
    """Who waits for a child that is gone is told."""
    process = await engine.start("exec sleep 60", stdin=True)
    assert process.stdin is not None
    writing = asyncio.create_task(process.stdin.write(chunks(b"x" * (1 << 20))))
    await asyncio.sleep(0)
    await engine.processes.kill(process.name)
    async with asyncio.timeout(5):
        with pytest.raises(ConflictError):
            await writing
    assert not process.stdin.open


async def test_without_it_stdin_is_empty(engine: Engine) -> None:
    """A program that reads it ends at once."""
    process = await engine.run("cat; readlink /proc/self/fd/0")
    assert text(process.output) == b"/dev/null\n"
    assert process.stdin is None


async def test_a_restart_has_a_stdin_of_its_own(engine: Engine, eventually: Eventually) -> None:
    """What the first run did not read is gone, and the new one waits for more."""
    process = await engine.start(
        "read line; echo got $line; test \"$line\" = two", stdin=True,
        restart_on_failure=True, max_restarts=1,
    )  # fmt: skip
    first = process.stdin
    assert first is not None
    await first.write(chunks(b"one\nunread\n"))
    await eventually(lambda: process.stdin is not first)
    assert not first.open
    assert process.stdin is not None
    await process.stdin.write(chunks(b"two\n"))
    assert await engine.processes.wait(process, 5)
    said = [line for line in text(process.output).split(b"\n") if line.startswith(b"got")]
    assert said == [b"got one", b"got two"]
    assert process.exit_code == 0


async def test_a_start_that_fails_leaves_no_pipe(open_engine: OpenEngine) -> None:
    """Neither end of it."""
    engine = await open_engine(variables={"SHELL": "/no/shell"})
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FailedError):
        await engine.start("true", stdin=True)
    assert os.listdir("/proc/self/fd") == before


async def test_g19_no_descriptor_is_left(engine: Engine) -> None:
    """Of many processes with a stdin, closed or not, written to or not."""
    before = os.listdir("/proc/self/fd")
    for number in range(30):
        process = await engine.start("head -c 2 > /dev/null; echo x", stdin=True)
        assert process.stdin is not None
        if number % 3:
            await process.stdin.write(chunks(b"ab"))
        if number % 2 or not number % 3:
            process.stdin.close()
        assert await engine.processes.wait(process, 5)
    assert os.listdir("/proc/self/fd") == before
