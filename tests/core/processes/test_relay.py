"""Lines of output, told to who keeps the daemon's log: bounded, complete where they are few."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.core.processes import Process, relay
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.journal import Kind
from sandbox_api.core.processes.relay import Told
from tests.core.processes.conftest import Engine, OpenEngine, text

Eventually = Callable[..., Awaitable[Any]]
OUT, ERR = Kind.STDOUT, Kind.STDERR


class Heard:
    """All that was told."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def __call__(self, _: Process, told: Told) -> None:
        self.told.append(told)

    @property
    def lines(self) -> list[tuple[Kind, str]]:
        """The lines, in order."""
        return [(told.kind, told.text) for told in self.told if not told.skipped]

    @property
    def skipped(self) -> int:
        """Bytes that were left out."""
        return sum(told.skipped for told in self.told)


@pytest.fixture
def heard() -> Heard:
    """A listener."""
    return Heard()


@pytest.fixture
async def engine(open_engine: OpenEngine, heard: Heard) -> Engine:
    """An engine whose lines are heard."""
    return await open_engine(host=Host(tell=heard))


async def test_each_line_with_its_stream(
    engine: Engine, heard: Heard, eventually: Eventually
) -> None:
    """In order, without empty ones; what has no newline is a line at the end."""
    await engine.run("echo a; sleep 0.01; echo b >&2; sleep 0.01; echo; printf 'c\\nd'")
    await eventually(lambda: len(heard.told) == 4)
    assert heard.lines == [(OUT, "a"), (ERR, "b"), (OUT, "c"), (OUT, "d")]


async def test_a_line_that_comes_in_pieces(
    engine: Engine, heard: Heard, eventually: Eventually
) -> None:
    """It is told once, when it is whole; of a live process too."""
    process = await engine.start("printf a; sleep 0.2; printf 'b\\n'; exec sleep 60")
    await eventually(lambda: heard.told)
    assert heard.lines == [(OUT, "ab")]
    assert process.running


async def test_a_flood_is_bounded_and_counted(
    engine: Engine, heard: Heard, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 lines, one count of the rest, and after that second it goes on."""
    monkeypatch.setattr(relay, "WINDOW_S", 0.5)
    process = await engine.start("seq 100000; read x; echo after", stdin=True)
    await eventually(lambda: heard.skipped)
    assert heard.lines == [(OUT, str(n)) for n in range(1, 201)]
    told = "".join(f"{line}\n" for _, line in heard.lines)
    assert heard.skipped == len(text(process.output)) - len(told)
    assert process.stdin is not None
    process.stdin.close()
    await eventually(lambda: heard.lines[-1] == (OUT, "after"))
    assert len(heard.lines) == 201


async def test_a_line_too_long_is_cut(engine: Engine, heard: Heard, eventually: Eventually) -> None:
    """After 8 KiB, between characters; the next line is whole."""
    await engine.run("printf x; printf 'é%.0s' $(seq 40000); echo; echo b")
    await eventually(lambda: heard.skipped)
    (_, long), (_, short) = heard.lines
    assert (len(long.encode()), long, short) == (8191, "x" + "é" * 4095, "b")
    assert heard.skipped == len("x\n") + 80000 - len(long.encode())


async def test_long_lines_are_jumped_over(
    engine: Engine, heard: Heard, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 1 MiB behind, what is there is left out; every byte is told or counted."""
    monkeypatch.setattr(relay, "WINDOW_S", 0.2)
    process = await engine.run("head -c 20000000 /dev/zero | tr '\\0' x; echo; sleep 0.5; echo end")
    await eventually(lambda: heard.lines and heard.lines[-1] == (OUT, "end"))
    told = sum(len(line) for _, line in heard.lines)
    newlines = [1, 2]  # the long line's is counted where its end is left out
    assert told < 100_000
    assert len(text(process.output)) - told - heard.skipped in newlines


async def test_all_together_are_bounded(
    open_engine: OpenEngine,
    heard: Heard,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crowd of talkers does not drown the daemon's log."""
    monkeypatch.setattr(relay, "LINES_PER_S_OF_ALL", 50)
    engine = await open_engine(host=Host(tell=heard))
    await asyncio.gather(*[engine.run("seq 40") for _ in range(10)])
    await eventually(lambda: heard.told)
    assert len(heard.told) <= 50


async def test_what_is_left_behind_is_heard(
    engine: Engine, heard: Heard, eventually: Eventually, tmp_path: Path
) -> None:
    """A background child writes after the end of its process."""
    gate = tmp_path / "gate"
    process = await engine.run(f"mkfifo {gate}; (read x < {gate}; echo late) & echo early")
    await eventually(lambda: heard.told)
    assert heard.lines == [(OUT, "early")]
    assert not process.running
    await asyncio.to_thread(gate.write_text, "go\n")
    await eventually(lambda: len(heard.told) == 2)
    assert heard.lines[-1] == (OUT, "late")


async def test_silence_costs_nothing(engine: Engine, heard: Heard) -> None:
    """Who writes nothing is never looked at, and at its end nothing stays."""
    process = await engine.run("true")
    assert process.output.on_more is None
    assert heard.told == []


async def test_g14_lines_that_were_told_are_not_told_again(
    open_engine: OpenEngine, heard: Heard, eventually: Eventually
) -> None:
    """A daemon that takes over tells what is new."""
    first = await open_engine(host=Host(tell=heard, holds_pipes=True))
    await first.start("echo old; read x; echo new", name="p", stdin=True)
    await eventually(lambda: heard.told)
    first.processes.close()
    second = await open_engine(host=Host(tell=heard, holds_pipes=True))
    process = second.processes.find("p")
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    await eventually(lambda: len(heard.lines) == 2)
    assert heard.lines == [(OUT, "old"), (OUT, "new")]


async def test_a_forgotten_process_is_left_alone(
    engine: Engine, heard: Heard, eventually: Eventually
) -> None:
    """Its files are gone, and are not made again by a look that comes late."""
    process = await engine.run("echo x")
    process.output.discard()
    await asyncio.sleep(2 * relay.LINGER_S)
    assert heard.told == []
    assert list(engine.directory.iterdir()) == []
