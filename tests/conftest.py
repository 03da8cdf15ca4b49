"""What tests of every area use: the application, a real daemon, and waiting with a deadline."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from sandbox_api.api.server import Runner
from sandbox_api.app import create_app
from sandbox_api.settings import Settings
from tests.serving import DAEMON

log = logging.getLogger(__name__)
LAUNCH = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def _take_ignored_signals() -> None:
    """Do nothing at them, rather than ignore them, as `&` and nohup make us do: what is ignored is
    so in all that tests start, and some tests send these signals.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_configure() -> None:
    """Directories for this session alone.

    Each session of pytest closes the directory that all share to other users, in the middle of
    another session's tests of what other users may do.
    """
    _take_ignored_signals()
    os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(prefix="sandbox-api-tests-")


def pytest_sessionfinish(exitstatus: int) -> None:
    """What failed can be looked at."""
    if not exitstatus:
        shutil.rmtree(os.environ["PYTEST_DEBUG_TEMPROOT"], ignore_errors=True)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[object]]:
    """`await eventually(check, timeout_s=5)`: poll until `check()` gives something true."""

    async def poll(check: Callable[[], object], timeout_s: float = 20.0) -> object:
        deadline = time.monotonic() + timeout_s
        while not (value := check()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s"
            await asyncio.sleep(0.01)
        return value

    return poll


class _Server(TestServer):
    async def _make_runner(self, **_: object) -> Runner:
        return Runner(self.app, access_lines=lambda line: log.info(line.decode()))


@pytest.fixture
async def app_client(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    """`client = await app_client(token="x")`: the application with directories of its own."""
    names = {"workdir": "work", "home": "home", "state_dir": "state"}
    paths = {setting: str(tmp_path / name) for setting, name in names.items()}
    for path in paths.values():
        os.mkdir(path, 0o700)
    async with AsyncExitStack() as stack:

        async def start(*, routes: Iterable[web.RouteDef] = (), **settings: object) -> object:
            values = {**paths, "launch_environment": LAUNCH, **settings}
            app = create_app(Settings(**values))  # type: ignore[arg-type]
            app.add_routes(routes)
            return await stack.enter_async_context(TestClient(_Server(app)))

        yield start
    _end_leftovers(tmp_path)


def _end_leftovers(directory: Path) -> None:
    """Commands outlive their daemon; they are known by the pipes that they have open."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is not ours to look at
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
            held = [link for link in links if link.startswith(f"{directory}/") and ".pipe" in link]
            if held and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., SimpleNamespace]]:
    """`daemon = start_daemon("-c", "true", env={})`: a real one, with `port`, `process`, `log()`.

    It listens when this returns, unless `ready=False`; the test's end kills it.
    `under=("unshare",)` is a command that starts it.
    """
    running: list[subprocess.Popen[bytes]] = []

    def start(
        *flags: str,
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        under: Sequence[str] = (),
    ) -> SimpleNamespace:
        path = tmp_path / f"daemon-{len(running)}.log"
        state = {"HOME": str(tmp_path), "SANDBOX_STATE_DIR": str(tmp_path / "state")}
        daemon_flags = [*(("-p", "0") if ready else ()), *flags]
        command = [*under, *DAEMON, *daemon_flags]
        with path.open("wb") as stderr:
            variables = {**LAUNCH, **state, **(env or {})}
            process = subprocess.Popen(command, stderr=stderr, cwd=tmp_path, env=variables)
        running.append(process)

        def log() -> list[dict[str, object]]:
            return [
                json.loads(line) for line in path.read_text().split("\n")[:-1] if line[:1] == "{"
            ]

        daemon = SimpleNamespace(process=process, log=log, path=path, port=0)
        deadline = time.monotonic() + 20
        while ready and not daemon.port:
            daemon.port = next((line["port"] for line in log() if "port" in line), 0)
            assert process.poll() is None, path.read_text()
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.01)
        return daemon

    yield start
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
