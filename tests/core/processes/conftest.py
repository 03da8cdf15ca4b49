"""A process engine of its own for each test, and output without a process."""

import asyncio
import importlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from sandbox_api.core.environment import Environment
from sandbox_api.core.identity import Identity
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes import Directories, Limits, Process, Processes, ProcessSpec
from sandbox_api.core.processes.cursor import Cursor, Piece
from sandbox_api.core.processes.ending import remains
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.journal import Kind, Position
from sandbox_api.core.processes.logfile import pending_bytes
from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.storage import RunDirectory

ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


class Engine:
    """A process engine, with short ways to run and to read."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.processes = processes
        self.directory = directory
        self.records = directory.parent / "records"

    async def start(self, command: str, **spec: object) -> Process:
        """Start a command and do not wait."""
        return await self.processes.start(ProcessSpec(command=command, **spec))  # type: ignore[arg-type]

    async def run(self, command: str, timeout_s: float = 10.0, **spec: object) -> Process:
        """Start a command and wait for its end."""
        process = await self.start(command, **spec)
        assert await self.processes.wait(process, timeout_s), f"not within {timeout_s} s"
        return process


OpenEngine = Callable[..., Awaitable[Engine]]
Successor = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def open_engine(tmp_path: Path) -> AsyncIterator[OpenEngine]:
    """`await open_engine(stop_grace_s=0.2)`; `memory=True` for one without a directory."""
    async with AsyncExitStack() as stack:

        async def open_one(
            *,
            variables: dict[str, str] | None = None,
            directory: Path | None = None,
            memory: bool = False,
            identity: Identity | None = None,
            host: Host | None = None,
            **limits: float,
        ) -> Engine:
            runs = directory or tmp_path / "runs"
            records = runs.parent / "records"
            runs.mkdir(exist_ok=True)
            records.mkdir(exist_ok=True)
            environment = Environment({**ENVIRONMENT, **(variables or {})})
            resolver = PathResolver(str(tmp_path), str(tmp_path))
            processes = await stack.enter_async_context(
                Processes.open(
                    environment,
                    identity,
                    resolver,
                    None if memory else Directories(runs, records),
                    limits=Limits(**limits),  # type: ignore[arg-type]
                    host=host,
                )
            )
            stack.push_async_callback(_end_all, processes)
            return Engine(processes, runs)

        yield open_one


async def _end_all(processes: Processes) -> None:
    for process in processes.list():
        if process.running and await remains(process):  # it may be another engine's by now
            await processes.kill(str(process.pid))


@pytest.fixture
async def engine(open_engine: OpenEngine) -> Engine:
    """A process engine with default limits."""
    return await open_engine()


@pytest.fixture
def successor(engine: Engine, open_engine: OpenEngine) -> Successor:
    """`await successor()`: the engine lets go, and the next one takes over."""

    async def open_next(**limits: float) -> Engine:
        engine.processes.close()
        return await open_engine(**limits)

    return open_next


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts come after 50 ms."""
    supervision = importlib.import_module("sandbox_api.core.processes.supervision")
    monkeypatch.setattr(supervision, "RESTART_PAUSE_S", 0.05)


def record(engine: Engine, process: Process) -> Path:
    """The file that holds a process's record."""
    return engine.records / f"{process.output.run}.json"


def found(engine: Engine, name: str) -> Process:
    """A process that the next engine knows."""
    process = engine.processes.find(name)
    assert process is not None
    return process


class Writer:
    """Output that the test writes itself, through the pipes that a child would have.

    Each write is taken by the reader before the next one: so the order is known.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._fds = [os.dup(fd) for fd in output.write_fds]
        self.written = {Kind.STDOUT: b"", Kind.STDERR: b""}
        self.order: list[tuple[Kind, int]] = []

    async def write(self, kind: Kind, data: bytes) -> None:
        """Write to one stream and wait until it is read."""
        begin = len(self.written[kind])
        self.written[kind] += data
        self.order += [(kind, offset) for offset in range(begin, begin + len(data))]
        os.write(self._fds[kind], data)
        async with asyncio.timeout(5):
            while pending_bytes(self._fds[kind]):  # noqa: ASYNC110 - the reader knows no events
                await asyncio.sleep(0)

    def close(self) -> None:
        """Nobody writes any more."""
        for fd in self._fds:
            os.close(fd)


@asynccontextmanager
async def open_writer() -> AsyncIterator[Writer]:
    """Output of a run in a directory of its own."""
    with tempfile.TemporaryDirectory() as parent:
        output = Output(RunDirectory.create(Path(parent), None))
        writer = Writer(output)
        try:
            yield writer
        finally:
            writer.close()
            output.close()


def read_all(output: Output, most: int = 1 << 20) -> list[Piece]:
    """Every piece of an output, from its begin, some bytes at a time."""
    cursor = Cursor(output)
    pieces: list[Piece] = []
    while more := cursor.read(most):
        pieces += more
    return pieces


def text(output: Output) -> bytes:
    """The bytes of both streams in their order."""
    return b"".join(piece.data for piece in read_all(output))


def check_pieces(pieces: list[Piece], writer: Writer) -> None:
    """Pieces are exactly what was written, in its order, but for counted gaps."""
    at = Position()
    for piece in pieces:
        if piece.kind is Kind.END:
            continue
        assert piece.position == at
        offset, length = at[piece.kind], piece.lost or len(piece.data)
        assert length > 0
        if not piece.lost:
            assert piece.data == writer.written[piece.kind][offset : offset + length]
            places = writer.order[at.order : at.order + length]
            assert places == [(piece.kind, offset + i) for i in range(length)]
        at = at.advance(piece.kind, length)
    assert at == tuple(len(data) for data in writer.written.values())
