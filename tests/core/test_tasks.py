"""Work that ends whoever leaves."""

import asyncio

import pytest

from sandbox_api.core.tasks import Tasks


async def test_a_result_that_nobody_waits_for_is_handed_over() -> None:
    """Whatever it holds can be closed."""
    tasks, go = Tasks(), asyncio.Event()
    closed: list[str] = []

    async def open_something() -> str:
        await go.wait()
        return "it"

    asked = asyncio.create_task(tasks.settle(open_something(), closed.append))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert closed == []
    go.set()
    await tasks.close(5)
    assert closed == ["it"]
    assert await tasks.settle(open_something(), closed.append) == "it"
    assert closed == ["it"]


async def test_a_failure_that_nobody_waits_for_is_quiet() -> None:
    """asyncio would write it to the log, and there is nobody to tell."""
    tasks, go = Tasks(), asyncio.Event()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail() -> str:
        await go.wait()
        raise ValueError("it")

    asked = asyncio.create_task(tasks.settle(fail(), complaints.append))
    tasks.start(fail())
    await asyncio.sleep(0)
    asked.cancel()
    go.set()
    await tasks.close(5)
    await asyncio.gather(asked, return_exceptions=True)
    assert complaints == []
    with pytest.raises(ValueError, match="it"):
        await tasks.settle(fail())


async def test_closing_waits_only_so_long() -> None:
    """A disk that hangs does not keep the daemon."""
    tasks, go = Tasks(), asyncio.Event()
    await tasks.close(5)
    ended = []

    async def hang() -> None:
        await go.wait()
        ended.append("it")

    tasks.start(hang())
    await tasks.close(0.01)
    assert not ended
    go.set()
    await tasks.close(5)
    assert ended == ["it"]
