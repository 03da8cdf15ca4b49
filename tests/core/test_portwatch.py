"""The poller of open ports: it goes on when a look fails, and costs what it may."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api.wire import PORT_WATCH
from sandbox_api.core import portwatch
from sandbox_api.core.ports import Place, open_places
from sandbox_api.core.portwatch import PortWatch
from sandbox_api.errors import UnavailableError

Places = dict[Place, frozenset[int]]


@pytest.fixture
async def watch(app_client: Callable[..., Awaitable[TestClient]]) -> PortWatch:
    """That of an application."""
    return (await app_client()).app[PORT_WATCH]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Places | Exception]]:
    """What looks find, one after the other; the last one again and again."""
    found: list[Places | Exception] = [{}]

    def look() -> Places:
        one = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(portwatch, "open_places", look)
    monkeypatch.setattr(portwatch, "SHORTEST_PAUSE_S", 0.01)
    return found  # type: ignore[return-value] # a list is what is asked for


async def test_g28_a_look_that_fails_is_no_change(
    watch: PortWatch, looks: list[Places | Exception]
) -> None:
    """Without descriptors nothing is known, which is not the same as that nothing is open."""
    web, other = Place("tcp", 80, "*"), Place("tcp", 81, "*")
    open_one: Places = {web: frozenset({1})}
    looks[:] = [open_one, UnavailableError("open /proc/net/tcp: too many open files")]
    with watch.watching():
        number = watch.number
        assert await watch.changed(number, 10)
        number = watch.number
        assert not await watch.changed(number, 0.1)
        looks[:] = [OSError(24, "too many open files"), {**open_one, other: frozenset({2})}]
        assert await watch.changed(number, 10)
        events = watch.since(number)
        assert events is not None
        assert [(event.kind, event.opening.place) for event in events] == [("open", other)]


async def test_one_look_at_a_time(watch: PortWatch) -> None:
    """Who asks while another look is under way waits for the next."""
    running = most = 0
    run = watch._threads.run

    async def count(*arguments: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await run(*arguments)  # type: ignore[arg-type]
        finally:
            running -= 1

    watch._threads.run = count  # type: ignore[method-assign, assignment]
    await asyncio.gather(*(watch.list() for _ in range(5)))
    assert most == 1


async def test_the_pause_follows_the_cost(
    watch: PortWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a look takes long, looks are rare; never more than two seconds apart."""
    pauses: list[float] = []
    costs = [0.0, 0.001, 0.01, 3.0]

    async def look() -> float:
        return costs[len(pauses)]

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == len(costs):
            raise asyncio.CancelledError

    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await watch._poll()
    assert pauses == [0.1, 0.1, 0.5, 2.0]


def test_places_of_this_machine() -> None:
    """Workers of one port are one place with several sockets."""
    with socket.socket() as one, socket.socket() as two:
        for worker in (one, two):
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", 0))
        two.bind(one.getsockname())
        one.listen()
        two.listen()
        place = Place("tcp", one.getsockname()[1], "127.0.0.1")
        assert len(open_places()[place]) == 2
        assert not place.reachable
    assert place not in open_places()
