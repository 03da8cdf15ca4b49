"""Recent events and the readers of them: order, numbers, and what a slow one is told."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core.watch.events import CREATE, Event
from sandbox_api.core.watch.history import TRIM, History, Reader


def event(number: int) -> Event:
    return Event(CREATE, f"f{number}", "/w")


def filled(count: int, capacity: int = 10) -> History:
    history = History("/w", capacity)
    for number in range(count):
        history.add(event(number))
    return history


async def read_all(reader: Reader, limit: int = 256) -> list[tuple[int, Event]]:
    found = []
    while events := await reader.next(0, limit):
        found += events
    return found


async def test_reader_begins_now() -> None:
    """What was before it is not its business."""
    history = filled(3)
    reader = Reader(history)
    history.add(event(3))
    assert await read_all(reader) == [(history.last, event(3))]


async def test_g24_reader_that_stalls_is_told_how_much_it_missed() -> None:
    """Then it goes on with the oldest that is left; nobody else notices."""
    history = History("/w", capacity=10)
    slow, quick = Reader(history), Reader(history)
    begin = history.last
    seen = []
    for number in range(3 * TRIM):
        history.add(event(number))
        seen += await read_all(quick)
    assert seen == [(begin + 1 + number, event(number)) for number in range(3 * TRIM)]
    ((number, told),) = await slow.next(0) or []
    missed = number - begin
    assert told.op == told.name == ""
    assert told.path == "/w"
    assert f"{missed} events were lost" in str(told.error)
    assert await read_all(slow) == seen[missed:]
    assert len(seen[missed:]) >= 10


async def test_events_are_kept_within_a_bound() -> None:
    """However many there are."""
    history = filled(10 * TRIM)
    assert history.last - history.before <= 10 + TRIM


async def test_resume_at_each_number() -> None:
    """Every event after it, once."""
    history = filled(5)
    for number in range(history.before, history.last + 1):
        reader = Reader(history, number)
        start, told = reader.start()
        assert (start, told.error) == (number, None)
        assert [n for n, _ in await read_all(reader)] == list(range(number + 1, history.last + 1))


async def test_g24_gap_before_a_resumed_reader_is_told() -> None:
    """What is not kept any more, and numbers of another watch, before it or after it."""
    history = filled(2 * TRIM)
    for place in ("before all", "before", "behind", "behind all"):
        number = {
            "before all": 0,
            "before": history.before - 1,
            "behind": history.last + 1,
            "behind all": 10**18 - 1,
        }[place]
        reader = Reader(history, number)
        start, told = reader.start()
        assert f"after event {number} is not known" in str(told.error)
        assert start == history.last
        history.add(event(0))
        assert await read_all(reader) == [(history.last, event(0))]


async def test_numbers_of_a_later_watch_are_others() -> None:
    """So nobody resumes at what another watch of the same directory has numbered."""
    first = filled(1000)
    await asyncio.sleep(0.002)  # a thousand events in less time is more than the kernel tells
    assert History("/w").last > first.last


async def test_end_comes_after_the_last_event() -> None:
    """For those that wait, for those that are behind, and for those that come later."""
    history = filled(2)
    behind, waiting = Reader(history, history.before), Reader(history)
    wait = asyncio.create_task(waiting.next(60))
    await asyncio.sleep(0)
    history.end(event(2))
    history.add(event(3))
    assert await wait == [(history.last, event(2))]
    assert await waiting.next(60) is None
    assert len(await read_all(behind)) == 3
    assert await behind.next(60) is None
    assert await Reader(history).next(60) is None


async def test_silence_is_an_empty_answer() -> None:
    """After it the reader goes on."""
    history = filled(0)
    reader = Reader(history)
    assert await reader.next(0.01) == []
    history.add(event(0))
    assert await reader.next(60) == [(history.last, event(0))]


@given(
    steps=st.lists(st.tuples(st.integers(0, 2 * TRIM), st.integers(0, 40)), max_size=12),
    limit=st.integers(1, 300),
)
def test_reader_sees_each_event_once_or_is_told(steps: list[tuple[int, int]], limit: int) -> None:
    """Whatever the pace of both: what is read and what is told lost is all that there was."""

    async def run() -> None:
        history = History("/w", capacity=50)
        reader = Reader(history)
        begin = expected = history.last
        for added, reads in steps:
            for _ in range(added):
                history.add(event(history.last - begin))
            for _ in range(reads):
                for number, told in await reader.next(0, limit) or []:
                    if told.op:
                        expected += 1
                        assert (number, told) == (expected, event(number - 1 - begin))
                    else:
                        assert f"{number - expected} events were lost" in str(told.error)
                        expected = number
        rest = await read_all(reader)
        assert (rest[-1][0] if rest else expected) == history.last

    asyncio.run(run())
