"""The end of output as text: both streams in their order, however much is cut."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_api.core.processes.journal import Kind, Position
from sandbox_api.core.processes.tail import MARKER, read_tail
from tests.core.processes.conftest import open_writer

KINDS = st.sampled_from([Kind.STDOUT, Kind.STDERR])
WRITES = st.tuples(KINDS, st.binary(min_size=1, max_size=9).map(lambda data: data.hex().encode()))


@settings(deadline=None, max_examples=150)
@given(
    writes=st.lists(WRITES, max_size=30),
    late=st.lists(WRITES, max_size=3),
    limit=st.integers(0, 99),
)
async def test_logs_are_both_tails_in_their_order(
    writes: list[Any], late: list[Any], limit: int
) -> None:
    """The last bytes of each stream, merged as they came; a marker where something is cut."""
    async with open_writer() as writer:
        for kind, data in writes:
            await writer.write(kind, data)
        writer.output.finish()
        for kind, data in late:
            await writer.write(kind, data)
        tail = await read_tail(writer.output, limit)
        sizes = {kind: len(data) for kind, data in writer.written.items()}
        begins = {kind: max(0, size - limit) if limit else 0 for kind, size in sizes.items()}
        kept = [(k, offset) for k, offset in writer.order if offset >= begins[k]]
        logs = "".join(chr(writer.written[k][offset]) for k, offset in kept)
        assert (tail.stdout, tail.stderr) == tuple(
            (MARKER.decode() if begins[k] else "") + writer.written[k][begins[k] :].decode()
            for k in writer.written
        )
        assert tail.logs.replace(MARKER.decode(), "") == logs
        assert tail.logs.startswith(MARKER.decode()) == any(begins.values())


async def test_a_day_of_marks_does_not_hold_the_loop() -> None:
    """A stream that was written ten times a second beside a quiet one is read at once."""
    async with open_writer() as writer:
        await writer.write(Kind.STDOUT, b"early\n")
        journal = writer.output.journal
        for number in range(200_000):
            journal.append(Position(6, 0), Kind.STDERR, number * 1_000_000_000)
        await writer.write(Kind.STDERR, b"now\n")
        loop = asyncio.get_running_loop()
        begin = loop.time()
        tail = await read_tail(writer.output, 1 << 16)
        assert loop.time() - begin < 0.1
        assert tail.logs == "early\nnow\n"
