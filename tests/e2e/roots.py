"""Root file systems of images, and the built daemon as the first process in one of them."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.serving import free_port

PROJECT: Final = Path(__file__).parents[2]
MACHINE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
# SANDBOX_API_ARCH names another architecture than the machine's: its file is run by qemu.
ARCH: Final = os.environ.get("SANDBOX_API_ARCH") or MACHINE
EMULATED: Final = ARCH != MACHINE
EMULATE: Final = (
    [sys.executable, "-I", str(PROJECT / "tests/e2e/emulated.py"), ARCH] if EMULATED else []
)
BINARY: Final = Path(
    os.environ.get("SANDBOX_API_BIN") or PROJECT / f"dist/sandbox-api-linux-{ARCH}"
)
IS_PLAIN: Final = BINARY.name == "plain"  # the file without a snapshot
# The same program, but it runs a script (packaging/runtime/main.c).
CHECKER: Final = PROJECT / f"build/{ARCH}/{'plain' if IS_PLAIN else 'snapshot'}-checker"
PLACE: Final = "usr/local/bin/sandbox-api"
LAUNCH: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C",
    "A": "ü b",
}
DEADLINE_S: Final = 60 if EMULATED else 20

Roots = Callable[[str], Path]  # gives a root by its name


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _may_make_roots() -> bool:
    """Whether this machine lets us make namespaces and mounts."""
    return _works("unshare", "--mount", "--pid", "--fork", "sh", "-c", "mount -t tmpfs tmpfs /mnt")


def _why_not() -> str:
    """Why the file cannot be tested here; empty where it can."""
    if not BINARY.is_file() or not CHECKER.is_file():
        return f"scripts/build has not made {BINARY}"
    if EMULATED and not _works(*EMULATE, "true"):
        return f"programs for {ARCH} need qemu-user-static, root's rights and Linux 6.7"
    return ""


needs_binary = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


needs_root = pytest.mark.skipif(
    not _may_make_roots(), reason="root's rights, or namespaces, are not to be had"
)


def make_scratch(root: Path) -> None:
    """What Docker gives to an image that holds nothing: mount points, and names of hosts."""
    for name in ("tmp", "proc", "dev/shm", "etc", "usr/local/bin", "root"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/hostname").write_text("sandbox\n")


def make_busybox(root: Path) -> None:
    """A static busybox and nothing else."""
    busybox = _program("busybox")
    make_scratch(root)
    (root / "bin").mkdir()
    shutil.copy(busybox, root / "bin/busybox")
    subprocess.run(["chroot", root, "/bin/busybox", "--install", "-s", "/bin"], check=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


def make_musl(root: Path) -> None:
    """As Alpine is: musl is the only C library, the shell is busybox, CAs are in one file."""
    loader = Path(f"/lib/ld-musl-{os.uname().machine}.so.1")
    if not loader.exists():
        pytest.skip(f"there is no {loader}: install musl")
    make_busybox(root)
    (root / "lib").mkdir()
    shutil.copy(loader.resolve(), root / "lib" / loader.name)
    (root / "etc/alpine-release").write_text("3.0.0\n")


def make_debian(root: Path) -> None:
    """Debian as debootstrap makes it; for another architecture unpacked, but not set up."""
    debootstrap = _program("debootstrap")
    foreign = ["--foreign", f"--arch={ARCH}"] if EMULATED else []
    command = [debootstrap, *foreign, "--variant=minbase", "bookworm", str(root)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"debootstrap could not make a root: {result.stdout[-300:]}")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    if (root / "proc").is_symlink():  # to the machine's, until it is set up
        (root / "proc").unlink()
        (root / "proc").mkdir()
    if EMULATED:
        shutil.copy(root / "usr/share/base-passwd/passwd.master", root / "etc/passwd")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is needed to make this root")
    return found


MAKERS: Final[Mapping[str, Callable[[Path], None]]] = {
    "scratch": make_scratch,
    **({} if EMULATED else {"busybox": make_busybox, "musl": make_musl}),  # of this machine
    "debian": make_debian,
}
# Where a root has its CA certificates, as distributions have them.
CA_FILE: Final = "etc/ssl/certs/ca-certificates.crt"
CA_FILES: Final = {"musl": "etc/ssl/cert.pem", "busybox": "etc/pki/tls/certs/ca-bundle.crt"}
# Shell lines that change the root before the daemon starts in it; $M is where it is mounted.
DEVICES: Final = """
    mkdir -p $M/dev/pts $M/dev/shm; mount -t devpts -o ptmxmode=0666 devpts $M/dev/pts
    ln -sf pts/ptmx $M/dev/ptmx
    for device in null urandom; do
        rm -f $M/dev/$device; touch $M/dev/$device; mount --bind /dev/$device $M/dev/$device
    done
"""
READ_ONLY: Final = "mount -o remount,bind,ro $M"
STATES: Final[Mapping[str, str]] = {
    "writable": "true",
    "read-only": f"{READ_ONLY}; mount -t tmpfs tmpfs $M/tmp; chmod 1777 $M/tmp",
    "noexec": f"{READ_ONLY}; mount -t tmpfs -o noexec tmpfs $M/tmp; chmod 1777 $M/tmp",
    "no-tmp": f"rmdir $M/tmp 2>/dev/null || mv $M/tmp $M/.tmp; {READ_ONLY}",
}


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Any = None,  # noqa: ANN401
) -> tuple[int, bytes]:
    """Status and body of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()


@dataclass(frozen=True)
class Case:
    """The daemon as it runs in one root."""

    root: str
    state: str
    uid: int
    port: int
    pid: int  # as seen from outside
    log_path: Path
    launch: Mapping[str, str]

    @property
    def has_shell(self) -> bool:
        """Whether commands can run at all."""
        return self.root != "scratch"

    @property
    def can_write(self) -> bool:
        """Whether there is a directory to write to."""
        return self.state != "no-tmp"

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer; what is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        return ask(self.port, method, path, data, dict(headers or {}))

    def json(self, method: str, path: str, body: object = None, status: int = 200) -> Any:  # noqa: ANN401 - JSON is any
        """An answer in JSON."""
        answered, text = self.request(method, path, body)
        assert answered == status, text
        return json.loads(text)

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]


@contextmanager
def running(
    roots: Callable[[str], Path],
    work: Path,
    root: str,
    state: str = "writable",
    uid: int = 0,
    change: str = "true",
    **variables: str,
) -> Iterator[Case]:
    """Run the daemon as PID 1 of a root, in namespaces of its own; it has to end well.

    Args:
        roots: gives a root by its name.
        work: an empty directory.
        root: one of MAKERS.
        state: one of STATES.
        uid: who runs it.
        change: one more shell line, as those of STATES.
        variables: of its environment, beside LAUNCH.
    """
    mounted, port, log_path = work / "mounted", free_port(), work / "log"
    mounted.mkdir()
    # A layer above the root, so that no case sees what another has left.
    layer = f"upperdir={work}/layer/up,workdir={work}/layer/work,lowerdir={roots(root)}"
    script = f"""
        set -e; M={mounted}; mount --make-rprivate /
        mkdir {work}/layer; mount -t tmpfs tmpfs {work}/layer
        mkdir {work}/layer/up {work}/layer/work
        mount -t overlay -o {layer} overlay $M
        mkdir -p $M/usr/local/bin; cp {BINARY} $M/{PLACE}; chmod 755 $M $M/{PLACE}
        {"true" if "proc" in change else "mount -t proc proc $M/proc"}
        {DEVICES}
        {STATES[state]}
        {change}
        exec env -i "$@" chroot --userspec={uid}:{uid} $M /{PLACE} -p {port}
    """
    launch = {**LAUNCH, **variables}
    command = [*EMULATE, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    command += ["sh", "-c", script, "sh", *(f"{name}={value}" for name, value in launch.items())]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        pid = _wait_until_up(process, port, log_path)
        yield Case(root, state, uid, port, pid, log_path, launch)
        os.kill(pid, signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(DEADLINE_S) == 0, log_path.read_text()
        assert EMULATED or time.monotonic() - started < 5.5, "SIGTERM ends it in 5 s"
    finally:
        process.kill()
        process.wait()


def _wait_until_up(process: "subprocess.Popen[bytes]", port: int, log_path: Path) -> int:
    end = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < end, log_path.read_text()
        try:
            assert ask(port, "GET", "/health")[0] == 200
        except OSError:
            time.sleep(0.02)
            continue
        (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return int(pid)
