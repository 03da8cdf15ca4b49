"""The Dockerfiles: the image of the daemon, and one of somebody's own on it, on two C libraries.

Base images are imported from roots; the stage that compiles is stood in for by the built file.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.roots import (
    BINARY,
    DEADLINE_S,
    LAUNCH,
    PROJECT,
    Roots,
    ask,
    needs_binary,
    needs_root,
)
from tests.serving import free_port

pytestmark = [
    pytest.mark.slow,
    needs_binary,
    needs_root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
]

Buildah = Callable[..., str]
# What a container runtime does.
ENTER = """
set -e; mkdir -p "$0/dev" "$0/proc"
mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"
exec chroot "$0" "$@"
"""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Runs buildah, with a store of its own; without a container runtime, which CI has not."""
    store = tmp_path_factory.mktemp("store")
    places = ["--root", str(store / "root"), "--runroot", str(store / "run")]

    def run(*arguments: object) -> str:
        command = ["buildah", *places, "--storage-driver", "vfs", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.strip()

    yield run
    run("rm", "--all")
    shutil.rmtree(store, ignore_errors=True)


@pytest.fixture(scope="module")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of our Dockerfile, by its name."""
    stage = tmp_path_factory.mktemp("stage")
    (stage / "src/dist").mkdir(parents=True)
    shutil.copy(BINARY, stage / "src/dist/sandbox-api")
    (stage / "src/dist/sandbox-api.licenses.txt").write_text("licences")
    buildah(
        "bud", "--isolation=chroot", f"--build-context=build={stage}", "-t=sandbox-api", PROJECT
    )
    return "localhost/sandbox-api"


@contextmanager
def daemon(buildah: Buildah, image: str, *command: str) -> Iterator[int]:
    """The daemon in a container of an image; yields its port."""
    port = free_port()
    container = buildah("from", "--pull-never", image)
    root = buildah("mount", container)
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", ENTER, root, *command, "-p", str(port)], env=LAUNCH
    )
    try:
        for _ in range(DEADLINE_S * 10):
            try:
                if ask(port, "GET", "/health")[0] == 200:
                    break
            except OSError:
                assert process.poll() is None
                subprocess.run(["sleep", "0.1"], check=True)
        yield port
    finally:
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        buildah("umount", container)


def test_the_image_holds_the_daemon_and_nothing_else(buildah: Buildah, image: str) -> None:
    """`/sandbox-api` is there to be copied, and runs as it is."""
    with daemon(buildah, image, "/sandbox-api") as port:
        assert ask(port, "GET", "/")[0] == 200
    root = Path(buildah("mount", buildah("from", "--pull-never", image)))
    assert {path.name for path in root.iterdir()} <= {
        *("sandbox-api", "sandbox-api.licenses.txt"),
        *("dev", "etc", "proc", "run", "sys", "var"),  # made by who mounts it
    }


@pytest.mark.parametrize("base", ["debian", "musl"])
def test_the_example_builds_and_runs(buildah: Buildah, image: str, roots: Roots, base: str) -> None:
    """On glibc and on musl, by the Dockerfile of templates/example."""
    container = buildah("from", "scratch")
    buildah("add", container, roots(base), "/")
    root = Path(buildah("mount", container))
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/curl").symlink_to("/bin/true")  # a base image that has it
    buildah("umount", container)
    buildah("commit", container, f"localhost/base-{base}:1")
    arguments = {"SANDBOX_API_IMAGE": image, "BASE_IMAGE": f"localhost/base-{base}:1"}
    flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    example = PROJECT / "templates/example"
    buildah("bud", "--isolation=chroot", "--pull-never", *flags, f"-t=mine-{base}", example)
    with daemon(buildah, f"localhost/mine-{base}", "/usr/local/bin/sandbox-api") as port:
        body = '{"command": "ls /app /entrypoint.sh; exit 3", "waitForCompletion": true}'
        status, text = ask(port, "POST", "/process", body)
    assert status == 200, text
    assert b'"exitCode":3' in text
    assert b"server.js" in text
