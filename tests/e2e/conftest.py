"""What end-to-end tests share: a sandbox whose daemon is killed and started again. Nothing that
they start outlives them."""

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox_api.core.processes.tree import read_stat
from tests.e2e.checker import Check
from tests.e2e.https import make_authority
from tests.e2e.roots import CA_FILE, CA_FILES, MAKERS, Roots
from tests.serving import free_port

StartDaemon = Callable[..., SimpleNamespace]
Json = dict[str, Any]

ENDS = pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    """Commands outlive their daemon; they are known by the HOME that they inherited from it."""
    yield
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is not ours to look at
            if f"HOME={tmp_path}".encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


def eventually(check: Callable[[], Any], timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - any
    """Wait until a check gives something true."""
    deadline = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)
    return value


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    stat = read_stat(pid)
    return stat is None or stat.dead


def kernel_tells(process: Json) -> bool:
    """Whether an adopted process's end is known: older kernels tell its parent only."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    assert process["exitKnown"] or release < (6, 15)
    return bool(process["exitKnown"])


class Sandbox:
    """One port and one state directory; daemons come and go."""

    def __init__(self, start_daemon: StartDaemon) -> None:
        self._start_daemon = start_daemon
        self.port = free_port()
        self.variables: dict[str, str] = {}

    def start(self) -> None:
        """Start a daemon."""
        self.daemon = self._start_daemon("-p", str(self.port), env=self.variables)
        assert self.daemon.port == self.port

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon."""
        self.daemon.process.send_signal(number)
        assert self.daemon.process.wait(5) == (-9 if number == signal.SIGKILL else 0)

    def restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon and start the next."""
        self.end(number)
        self.start()

    @contextmanager
    def open(
        self, method: str, path: str, body: object = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A request, and its answer as it comes."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, data)
            yield connection.getresponse()

    def call(self, method: str, path: str, body: object = None, status: int = 200) -> Any:  # noqa: ANN401 - JSON is any
        """A request with a JSON answer."""
        with self.open(method, path, body) as response:
            text = response.read()
            assert response.status == status, text
            return json.loads(text)

    def run(self, command: str, status: int = 200, **request: object) -> Json:
        """Start a command and do not wait."""
        reply: Json = self.call("POST", "/process", {"command": command, **request}, status)
        return reply

    def get(self, name: str) -> Json:
        """One process."""
        reply: Json = self.call("GET", f"/process/{name}")
        return reply

    def wait(self, name: str) -> Json:
        """One process, when it has ended."""
        reply: Json = self.call("GET", f"/process/{name}/wait?timeout=20")
        assert reply["status"] != "running"
        return reply

    def stream(self, name: str) -> dict[str, list[bytes]]:
        """The lines of a log stream, to its end, by their prefix."""
        lines: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        with self.open("GET", f"/process/{name}/logs/stream") as response:
            for line in response:
                kind, _, rest = line.partition(b":")
                lines[kind.decode()].append(rest)
        return lines

    def said(self) -> list[str]:
        """What is in the daemon's log."""
        return [str(line["msg"]) for line in self.daemon.log()]


@pytest.fixture
def sandbox(start_daemon: StartDaemon) -> Sandbox:
    """A sandbox whose daemon runs."""
    one = Sandbox(start_daemon)
    one.start()
    return one


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA of one's own, and a certificate for localhost that it has signed."""
    directory = tmp_path_factory.mktemp("authority")
    make_authority(directory)
    return directory


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs a script in the checker."""
    return Check(tmp_path)


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Roots:
    """`roots("musl")`: a root file system, made once, that trusts our CA."""
    made: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            directory.chmod(0o755)
            MAKERS[name](directory)
            trusted = directory / CA_FILES.get(name, CA_FILE)
            trusted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(authority / "ca.pem", trusted)
            made[name] = directory
        return made[name]

    return root
