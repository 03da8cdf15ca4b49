"""Where searches run: their threads, and the process of regular expressions."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import Location
from sandbox_api.core.processes.reaper import Reaper
from sandbox_api.core.searches import searches as module
from sandbox_api.core.searches import worker
from sandbox_api.core.searches.find import FindQuery
from sandbox_api.core.searches.fuzzy import FuzzyMatch, FuzzyQuery
from sandbox_api.core.searches.grep import GrepMatch, GrepQuery
from sandbox_api.core.searches.searches import Searches
from sandbox_api.core.searches.until import Outcome, Until
from sandbox_api.core.searches.worker import WorkerEnd, WorkerRequest
from sandbox_api.core.walk import WalkScope
from sandbox_api.errors import FailedError, UnavailableError
from tests.core.searches.conftest import make

Eventually = Callable[..., Awaitable[object]]
HOPELESS = GrepQuery(text="(a|a)+$", regex=True)


@pytest.fixture
async def threads() -> AsyncIterator[FileThreads]:
    owner = FileThreads(None, module.SEARCH_THREADS)
    yield owner
    owner.close()


def owner_of(threads: FileThreads, timeout_s: float) -> Searches:
    return Searches(threads, Reaper(), timeout_s=timeout_s)


def at(path: Path) -> Location:
    return Location(str(path), str(path))


def children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


async def test_a_thread_that_hangs(
    threads: FileThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is answered, and so is everybody else: on a mount that is dead nothing returns."""
    release = threading.Event()
    monkeypatch.setattr(module, "GIVE_UP_AFTER_S", 0.05)
    monkeypatch.setattr(module, "find", lambda *_: release.wait(60))
    try:
        with pytest.raises(UnavailableError, match="no answer within"):
            await owner_of(threads, 0).find(at(tmp_path), FindQuery())
        monkeypatch.undo()
        assert (await owner_of(threads, 60).find(at(tmp_path), FindQuery())).matches == []
    finally:
        release.set()


async def test_a_daemon_that_stops(threads: FileThreads, tmp_path: Path) -> None:
    """Half an answer is none."""
    make(tmp_path, {"a": ""})
    threads.closing = True
    with pytest.raises(UnavailableError, match="stops"):
        await owner_of(threads, 60).find(at(tmp_path), FindQuery())


async def test_a_plain_search_leaves_the_helpers_to_others(
    threads: FileThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not use them; any other fuzzy search has all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    owner = owner_of(threads, 60)
    meanwhile: list[tuple[int, int]] = []

    def fuzzy(_: str, query: FuzzyQuery, until: Until, *, helpers: int) -> Outcome[FuzzyMatch]:
        with vars(owner)["_helpers"].some() as left:
            meanwhile.append((helpers, left))
        return Outcome([], truncated=False, timed_out=until.timed_out, unreadable=query.limit)

    monkeypatch.setattr(module, "fuzzy", fuzzy)
    for plain in (True, False):
        await owner.fuzzy(at(tmp_path), FuzzyQuery(text="a", plain=plain))
    assert meanwhile == [(0, 3), (3, 0)]


async def test_a_worker_that_somebody_kills(
    threads: FileThreads, tmp_path: Path, eventually: Eventually
) -> None:
    """It is an error, not an answer without matches."""
    make(tmp_path, {"f": "a" * 60 + "!"})
    before = set(children())
    asking = asyncio.create_task(owner_of(threads, 60).grep(at(tmp_path), HOPELESS))
    await eventually(lambda: set(children()) - before)
    for pid in set(children()) - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(FailedError, match="SIGKILL"):
        await asking


def test_a_worker_outlives_nobody(tmp_path: Path) -> None:
    """Without a daemon the kernel ends it."""
    make(tmp_path, {"f": "a" * 60 + "!"})
    request = WorkerRequest(root=str(tmp_path), query=HOPELESS, timeout_s=0.2, user=None)
    assert start(worker.worker_command(), request) == (-signal.SIGALRM, b"")


def start(command: list[str], request: WorkerRequest) -> tuple[int, bytes]:
    done = subprocess.run(
        command,
        input=worker.encode_request(request),
        stdout=subprocess.PIPE,
        env=worker.worker_environment(),
        cwd="/",
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_a_worker_of_the_built_file(tmp_path: Path) -> None:
    """There is no interpreter that would know the arguments: the daemon's own program does."""
    make(tmp_path, {"f": "needle"})
    query = GrepQuery(text="n.e", regex=True, scope=WalkScope(frozenset({"x"})))
    request = WorkerRequest(root=str(tmp_path), query=query, timeout_s=30, user=None)
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}; from sandbox_api.__main__ import main; "
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *worker.worker_command()[1:]]
    code, answer = start(command, request)
    matches, end = worker.decode_answer(answer)
    assert (code, end) == (0, WorkerEnd())
    assert matches == [GrepMatch("f", None, 1, 1, "needle", None)]


def test_requests_arrive_as_they_were_sent() -> None:
    """Names of any bytes, too."""
    query = GrepQuery(
        text="é\ud800",
        regex=True,
        patterns=("*.py",),
        scope=WalkScope(frozenset({"a", os.fsdecode(b"\xff")}), gitignore=True),
    )
    request = WorkerRequest(
        root=os.fsdecode(b"/\xff"), query=query, timeout_s=1.5, user=(1, 2, (2, 3))
    )
    decoded = worker.decode_request(worker.encode_request(request))
    assert (decoded.root, decoded.timeout_s) == (request.root, request.timeout_s)
    assert decoded.query.scope == query.scope
    assert (decoded.query.text, list(decoded.query.patterns)) == (query.text, ["*.py"])
    assert decoded.user == (1, 2, (2, 3))


def test_an_answer_that_was_broken_off() -> None:
    """What was written by then counts; the line in the middle of which it ended does not."""
    whole = b'["a", null, 1, 1, "x", null]\n'
    assert worker.decode_answer(whole + whole[:9]) == (
        [GrepMatch("a", None, 1, 1, "x", None)],
        None,
    )
