"""G24 with a real daemon and real programs: no path that they make is missing."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

StartDaemon = Callable[..., SimpleNamespace]

DEADLINE_S = 60
END = "the-end"


class Watch:
    """One recursive watch, read by a thread of its own."""

    def __init__(self, port: int, root: Path) -> None:
        self.created: set[str] = set()
        self.errors: list[str] = []
        self.ended = threading.Event()
        self._seen_end = threading.Event()
        self._root = root
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        self._connection.request("GET", f"/watch/filesystem/{root}/**")
        self._answer = self._connection.getresponse()  # the headers say that it is armed
        assert self._answer.status == 200, self._answer.read()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        """Leave."""
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._answer.close()
        self._connection.close()

    def _read(self) -> None:
        try:
            for line in self._answer:
                if line.startswith(b"{"):
                    self._take(json.loads(line))
        except http.client.HTTPException:
            return  # cut off, here or there
        self.ended.set()

    def _take(self, event: dict[str, str]) -> None:
        if event["error"]:
            self.errors.append(event["error"])
        elif event["op"] == "CREATE":
            self.created.add(f"{event['path']}/{event['name']}")
            if event["name"] == END:
                self._seen_end.set()

    def catch_up(self) -> None:
        """Wait for everything that has happened."""
        (self._root / END).touch()
        assert self._seen_end.wait(DEADLINE_S)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


StartWatch = Callable[[int, Path], Watch]


@pytest.fixture
def start_watch() -> Iterator[StartWatch]:
    """`watch = start_watch(port, directory)`, which is left after the test."""
    running: list[Watch] = []

    def start(port: int, root: Path) -> Watch:
        running.append(Watch(port, root))
        return running[-1]

    yield start
    for watch in running:
        watch.close()


def all_paths(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


def test_g24_files_in_new_directories(
    start_daemon: StartDaemon, start_watch: StartWatch, root: Path
) -> None:
    """2,000 files in 200 new directories, made as fast as a program can."""
    watch = start_watch(start_daemon().port, root)
    for number in range(200):
        directory = root / f"a{number % 20}" / f"b{number}"
        directory.mkdir(parents=True)
        for file in range(10):
            (directory / f"f{file}").touch()
    watch.catch_up()
    assert all_paths(root) - watch.created == set()
    assert watch.errors == []


class Inotifywait:
    """The oracle: what the command line tool sees."""

    def __init__(self, root: Path) -> None:
        if shutil.which("inotifywait") is None:
            pytest.skip("inotifywait is not installed (package inotify-tools)")
        command = ["inotifywait", "-m", "-r", "-e", "create,moved_to", "--format", "%w%f"]
        self.process = subprocess.Popen(
            [*command, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Watches established" in line:
                break
        self.created: set[str] = set()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.created.add(line.rstrip("\n"))
            if line.endswith(f"/{END}\n"):
                return

    def finish(self) -> set[str]:
        self._thread.join(DEADLINE_S)
        self.process.kill()
        self.process.communicate()
        return self.created


@pytest.fixture
def oracle(root: Path) -> Iterator[Inotifywait]:
    tool = Inotifywait(root)
    yield tool
    tool.process.kill()
    tool.process.wait()


def big_archive(path: Path) -> Path:
    """20,000 files in some 2,200 directories."""
    path.mkdir()
    for number in range(2000):
        directory = path / f"d{number % 7}" / f"e{number % 200}" / f"f{number}"
        directory.mkdir(parents=True)
        for file in range(10):
            (directory / f"file-{file}").write_bytes(b"x" * file)
    archive = path.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(path, "big")
    return archive


@pytest.mark.slow
def test_g24_unpacking_a_big_archive(
    start_daemon: StartDaemon,
    start_watch: StartWatch,
    root: Path,
    oracle: Inotifywait,
    tmp_path: Path,
) -> None:
    """Whatever inotifywait sees beside it is told, and all that is there."""
    archive = big_archive(tmp_path / "big")
    watch = start_watch(start_daemon().port, root)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(root)], check=True)
    watch.catch_up()
    assert watch.errors == []
    assert oracle.finish() - watch.created == set()
    assert all_paths(root) - watch.created == set()


@pytest.mark.slow
def test_g24_npm_install(
    start_daemon: StartDaemon,
    start_watch: StartWatch,
    root: Path,
    oracle: Inotifywait,
    tmp_path: Path,
) -> None:
    """npm writes under names that it renames; no network is needed for a packed directory."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    environment = {**os.environ, "HOME": str(tmp_path), "npm_config_cache": str(tmp_path / "npm")}
    packages = [pack(tmp_path / f"package{number}", environment) for number in range(5)]
    watch = start_watch(start_daemon().port, root)
    (root / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    subprocess.run(
        ["npm", "install", "--offline", "--no-audit", "--no-fund", *packages],
        cwd=root,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    watch.catch_up()
    assert watch.errors == []
    assert oracle.finish() - watch.created == set()
    assert (root / "node_modules" / "package4" / "lib" / "d39" / "f.js").exists()
    assert all_paths(root) - watch.created == set()


def pack(package: Path, environment: dict[str, str]) -> str:
    for number in range(40):
        (package / "lib" / f"d{number}").mkdir(parents=True)
        (package / "lib" / f"d{number}" / "f.js").write_text("module.exports = 1\n")
    (package / "package.json").write_text(f'{{"name": "{package.name}", "version": "1.0.0"}}')
    subprocess.run(
        ["npm", "pack", "--silent"],
        cwd=package,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return str(package / f"{package.name}-1.0.0.tgz")


def limited(directories: int, instances: int = 100) -> tuple[str, ...]:
    """A command that starts another one with few inotify watches (user_namespaces(7))."""
    script = (
        f"echo {directories} > /proc/sys/user/max_inotify_watches && "
        f'echo {instances} > /proc/sys/user/max_inotify_instances && exec "$@"'
    )
    command = ("unshare", "--user", "--map-root-user", "sh", "-c")
    if subprocess.run(
        [*command, script, "sh", "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("user namespaces, or their limits, are not allowed here")
    return (*command, script, "sh")


def get(port: int, target: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", target)
    answer = connection.getresponse()
    text = answer.read().decode() if answer.status != 200 else ""
    answer.close()
    connection.close()
    return answer.status, text


def test_g28_limit_of_kernel_watches(
    start_daemon: StartDaemon, start_watch: StartWatch, root: Path
) -> None:
    """When arming and later: the text names what to raise, and the daemon works on."""
    for number in range(20):
        (root / "many" / f"d{number}").mkdir(parents=True)
    (root / "few").mkdir()
    port = start_daemon(under=limited(10)).port
    for _ in range(3):  # what failed gives its watches back
        status, text = get(port, f"/watch/filesystem/{root}/many/**")
        assert status == 503
        assert "fs.inotify.max_user_watches" in json.loads(text)["error"]
    watch = start_watch(port, root / "few")
    for number in range(15):
        (root / "few" / f"d{number}").mkdir()
    watch.catch_up()
    assert all_paths(root / "few") == watch.created
    assert len(watch.errors) >= 5
    assert all("fs.inotify.max_user_watches" in error for error in watch.errors)
    assert re.search("cannot watch .*/few/d", watch.errors[0])
    assert get(port, "/health")[0] == 200


def test_g28_limit_of_kernel_instances(start_daemon: StartDaemon, root: Path) -> None:
    """The daemon needs one; polling needs none."""
    port = start_daemon(under=limited(10, instances=0)).port
    status, text = get(port, f"/watch/filesystem/{root}")
    assert status == 503
    assert "fs.inotify.max_user_instances" in json.loads(text)["error"]
    assert get(port, f"/watch/filesystem/{root}?poll=true")[0] == 200


def test_g31_sigterm_ends_watches(
    start_daemon: StartDaemon, start_watch: StartWatch, root: Path
) -> None:
    """With the reason and a clean end; the daemon ends as if nobody had watched."""
    daemon = start_daemon()
    watch = start_watch(daemon.port, root)
    daemon.process.send_signal(signal.SIGTERM)
    assert watch.ended.wait(DEADLINE_S)
    assert watch.errors == ["the daemon stops; watch again when it is back"]
    assert daemon.process.wait(DEADLINE_S) == 0
