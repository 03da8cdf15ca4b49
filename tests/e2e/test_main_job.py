"""The main job, as an image does it: entrypoint.sh, sh, curl and a real app."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

ENTRYPOINT = Path(__file__).parents[2] / "entrypoint.sh"
DAEMON = Path(os.environ.get("SANDBOX_API_BIN") or Path(sys.executable).with_name("sandbox-api"))
DEADLINE_S = 20
TOOLS = ("sh", "curl", "date", "sed", "sleep")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def eventually(look: Callable[[], T], what: str) -> T:
    """Look until there is something.

    Raises:
        AssertionError: there was nothing within the deadline.
    """
    end = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE_S} s"
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Sandbox:
    """A running entrypoint.sh in its own root directory, spoken to with curl only."""

    root: Path
    base: str
    entrypoint: subprocess.Popen[str]
    token: str

    def command(self, url: str, *arguments: str) -> list[str]:
        authorization = ["-H", f"Authorization: Bearer {self.token}"] if self.token else []
        full = url if url.startswith("http") else self.base + url
        return ["curl", "-sS", "--max-time", str(DEADLINE_S), *authorization, *arguments, full]

    def curl(self, url: str, *arguments: str) -> str:
        """The body of a reply, whatever its status; empty when nobody answers."""
        run = subprocess.run(
            self.command(url, *arguments), capture_output=True, text=True, check=False
        )
        return run.stdout

    def json(self, url: str, *arguments: str) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self.curl(url, *arguments) or "{}")
        return reply

    def start(self, **request: object) -> dict[str, Any]:
        return self.json("/process", "-d", json.dumps(request))

    @contextmanager
    def follow(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """Live output; curl ends by itself at the deadline, so reading from it cannot hang."""
        command = self.command(f"/process/{name}/logs/stream", "-N", "-f")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            yield process


def read_until(stream: subprocess.Popen[str], text: str) -> list[str]:
    """The lines that come, up to the first that holds `text`."""
    assert stream.stdout is not None
    lines = []
    for line in stream.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"{text!r} never came; the stream had {lines}")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory with the few programs that an image has at least."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, f"{name} is needed for this test"
        (directory / name).symlink_to(found)
    return directory


@pytest.fixture
def launch(tools: Path, tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Runs entrypoint.sh as an image would; ends it, whatever the test did."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, token: str = "", daemon: Path = DAEMON) -> Sandbox:
        root = tmp_path / "root"
        root.mkdir()
        port = free_port()
        environment = {
            "PATH": str(tools),
            "HOME": str(root),
            "SANDBOX_API_BIN": str(daemon),
            "SANDBOX_API_PORT": str(port),
            "SANDBOX_STATE_DIR": str(tmp_path / "state"),
            **({"SANDBOX_API_TOKEN": token} if token else {}),
        }
        with (tmp_path / "stderr").open("w") as stderr:
            process = subprocess.Popen(
                [str(ENTRYPOINT), *arguments],
                cwd=root,
                env=environment,
                stderr=stderr,
                text=True,
                process_group=0,
            )
        started.append(process)
        return Sandbox(root, f"http://127.0.0.1:{port}", process, token)

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_up(sandbox: Sandbox) -> None:
    eventually(lambda: sandbox.json("/health").get("status") == "ok", "the daemon is up")


def test_web_server_is_started_watched_and_stopped(launch: Callable[..., Sandbox]) -> None:
    """A real server runs under its name: page, live log line, logs, files, stop, shutdown."""
    sandbox = launch()
    wait_until_up(sandbox)
    sandbox.json("/filesystem/site/index.html", "-X", "PUT", "-d", '{"content": "it works"}')
    assert (sandbox.root / "site/index.html").read_text() == "it works"

    port = free_port()
    page = f"http://127.0.0.1:{port}/index.html"
    server = f"exec {sys.executable} -u -m http.server {port}"
    started = sandbox.start(name="web", command=server, workingDir=str(sandbox.root / "site"))
    assert started["status"] == "running", started
    eventually(lambda: sandbox.curl(page, "-f") == "it works", "the page is served")

    with sandbox.follow("web") as stream:
        read_until(stream, '"GET /index.html HTTP/1.1" 200')  # what the stream begins with
        assert sandbox.curl(f"{page}?live") == "it works"
        *_, live = read_until(stream, "GET /index.html?live")
        assert live.startswith("stderr:")
        assert live.removeprefix("stderr:") in sandbox.json("/process/web/logs")["stderr"]

        assert sandbox.json("/process/web")["status"] == "running"
        stopped = sandbox.json("/process/web", "-X", "DELETE")
        assert stopped["message"] == "Process stopped successfully"
        assert stream.wait() == 0, "a stream ends cleanly when its process has ended"
    assert sandbox.json("/process/web")["status"] == "stopped"
    assert sandbox.curl(page) == ""

    sandbox.entrypoint.terminate()
    assert sandbox.entrypoint.wait(timeout=5) == 0


def test_process_that_fails_tells_why(launch: Callable[..., Sandbox]) -> None:
    """Status, exit code and both outputs are there after the process is gone."""
    sandbox = launch()
    wait_until_up(sandbox)
    sandbox.start(name="broken", command="echo starting; echo no config >&2; exit 3")
    eventually(lambda: sandbox.json("/process/broken")["status"] != "running", "it has ended")
    broken = sandbox.json("/process/broken")
    assert (broken["status"], broken["exitCode"]) == ("failed", 3)
    logs = sandbox.json("/process/broken/logs")
    assert (logs["stdout"], logs["stderr"]) == ("starting\n", "no config\n")


@pytest.mark.parametrize("token", ["", "a-secret"])
def test_arguments_are_started_as_the_app(launch: Callable[..., Sandbox], token: str) -> None:
    """`ENTRYPOINT ["entrypoint.sh"]` with a `CMD`: quotes, backslashes and line ends survive."""
    text = 'it\'s "up"\t\\ and\nrunning'
    sandbox = launch("printf", "%s", text, token=token)
    eventually(lambda: sandbox.json("/process/app").get("status") == "completed", "the app ran")
    assert sandbox.json("/process/app/logs")["stdout"] == text


def test_daemon_that_does_not_start_ends_the_image(launch: Callable[..., Sandbox]) -> None:
    """No image hangs waiting for a daemon that is gone."""
    false = shutil.which("false")
    assert false
    sandbox = launch(daemon=Path(false))
    assert sandbox.entrypoint.wait(timeout=DEADLINE_S) == 1


def test_arguments_without_curl_end_the_image(
    launch: Callable[..., Sandbox], tools: Path, tmp_path: Path
) -> None:
    """What the entrypoint cannot do is said, and nothing is left running."""
    (tools / "curl").unlink()
    sandbox = launch("true")
    assert sandbox.entrypoint.wait(timeout=DEADLINE_S) == 1
    assert "curl is needed" in (tmp_path / "stderr").read_text()
