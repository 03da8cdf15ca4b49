"""What a process that begins with a snapshot must have of its own: see docs/packaging.md.

Scripts run in the checker (tests/e2e/test_binary.py): the same memory, but it runs a script.
"""

import json
import os
import platform
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.roots import BINARY, CHECKER, IS_PLAIN, LAUNCH, ask, needs_binary

pytestmark = [
    pytest.mark.slow,
    needs_binary,
    pytest.mark.skipif(IS_PLAIN, reason="of the snapshot only"),
]


def script(text: str, *arguments: object, **options: Any) -> str:  # noqa: ANN401 - as subprocess.run
    """What a script writes."""
    command = [str(CHECKER), "/dev/stdin", *map(str, arguments)]
    result = subprocess.run(
        command, input=text, text=True, capture_output=True, check=False, timeout=60,
        **{"env": LAUNCH, **options},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


SECRETS = """
import hashlib, os, random, secrets, ssl, tempfile, uuid
from random import Random
print(random.random(), Random().random(), random.SystemRandom().random(), sep="\\n")
print(uuid.uuid4(), uuid.uuid1(), secrets.token_hex(), os.urandom(16).hex(), sep="\\n")
print(ssl.RAND_bytes(16).hex(), next(tempfile._get_candidate_names()), sep="\\n")
"""


def test_no_two_starts_share_a_secret() -> None:
    """Random numbers, uuids, tokens, and what TLS keys are made of."""
    values = Counter(line for _ in range(4) for line in script(SECRETS).splitlines())
    assert len(values) == 4 * 9
    assert set(values.values()) == {1}


TLS = """
import ssl
client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.create_default_context()
one = context.wrap_bio(client, server, server_hostname="localhost")
try: one.do_handshake()
except ssl.SSLWantReadError: print(server.read().hex()[22:86])
"""


def test_no_two_starts_send_the_same_tls_hello() -> None:
    """Its 32 random bytes."""
    assert len({script(TLS) for _ in range(4)}) == 4


def test_the_environment_is_that_of_the_start() -> None:
    """All of it, byte for byte; nothing of the build; children get the same."""
    environment = {b"PATH": b"/usr/bin:/bin", b"A": b"\xff b", b"EMPTY": b""}
    text = """
import os, subprocess
print(sorted(os.environb.items()))
print(subprocess.run(["env", "-0"], capture_output=True).stdout.split(b"\\0")[:-1])
"""
    mine, childs = script(text, env=environment).splitlines()
    assert mine == str(sorted(environment.items()))
    assert sorted(eval(childs)) == sorted(n + b"=" + v for n, v in environment.items())


@pytest.mark.parametrize(
    ("zone", "hour"),
    [("EST5EDT,M3.2.0,M11.1.0", "19"), ("Asia/Tokyo", "9"), (None, None), ("UTC-3", "3")],
)
def test_the_time_zone_is_that_of_the_start(zone: str | None, hour: str | None) -> None:
    """TZ, or what /etc/localtime says."""
    if zone == "Asia/Tokyo" and not Path("/usr/share/zoneinfo/Asia/Tokyo").exists():
        pytest.skip("no zoneinfo on this machine")
    text = "import time; print(time.localtime(0).tm_hour)"
    environment = LAUNCH if zone is None else {**LAUNCH, "TZ": zone}
    if hour is None:
        command = [sys.executable, "-c", text]
        hour = subprocess.run(
            command, env=LAUNCH, capture_output=True, text=True, check=True
        ).stdout
    assert script(text, env=environment) == hour.strip()


def test_clocks_go_on() -> None:
    """The time is now, and logging begins to count now."""
    text = """
import logging, time
record = logging.makeLogRecord({})
print(time.time(), time.monotonic(), time.perf_counter(), record.relativeCreated)
"""
    before, monotonic_before = time.time(), time.monotonic()
    now, monotonic, counter, relative_ms = map(float, script(text).split())
    assert before <= now <= time.time()
    assert monotonic_before <= monotonic <= time.monotonic()
    assert counter == pytest.approx(monotonic, abs=5)
    assert 0 <= relative_ms < 60_000


def test_the_configuration_of_openssl_is_that_of_the_image(tmp_path: Path) -> None:
    """It is read once in a process, and none was there when the snapshot was taken."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text("""
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = defaults
[defaults]
MaxProtocol = TLSv1.2
""")
    text = "import ssl; print(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).maximum_version)"
    environment = {**LAUNCH, "OPENSSL_CONF": str(configuration)}
    assert script(text, env=environment) == str(ssl.TLSVersion.TLSv1_2.value)


def test_nothing_of_the_build_machine_is_in_the_file() -> None:
    """Neither its configuration of TLS nor its types of files, its host name or a home."""
    content = BINARY.read_bytes()
    found = [text for text in (b"demoCA", b"chemical/x-") if text in content]
    assert found == []
    text = (
        "import platform, sysconfig; print(platform.node(), sysconfig.get_config_var('userbase'))"
    )
    assert script(text).split() == [platform.node(), "/.local"]


def test_standard_streams_are_opened_again(tmp_path: Path) -> None:
    """UTF-8, and None where there is none; standard error is buffered by line."""
    path = tmp_path / "script.py"
    path.write_text("""
import sys
sys.stderr.write(repr((sys.stdin, sys.stdout, sys.stderr.encoding, sys.stderr.line_buffering)))
""")
    command = ["sh", "-c", f"exec {CHECKER} {path} 0<&- 1>&-"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=LAUNCH)
    assert result.stderr == "(None, None, 'utf-8', True)"


def test_signals_are_those_of_the_start() -> None:
    """SIGINT interrupts; what the process was started to ignore is ignored; no other is."""
    text = """
import signal, sys
print([n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN and isinstance(n, signal.Signals)])
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""  # noqa: E501 - a script
    assert script(text).splitlines() == ["['SIGPIPE', 'SIGXFSZ']", "True"]

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    told = script(text, preexec_fn=ignore, restore_signals=False).splitlines()
    assert eval(told[0]) == ["SIGINT", "SIGUSR2", "SIGPIPE", "SIGXFSZ"]
    assert told[1] == "False"


FORKS_AND_THREADS = """
import hashlib, json, os, random, subprocess, threading, tempfile
assert threading.main_thread().ident == threading.get_ident() == threading.current_thread().ident
failures, numbers = [], []
def work(number):
    try:
        for turn in range(20):
            json.loads(json.dumps([{"a" * (number + turn): [turn] * 500}] * 20))
            hashlib.sha256(os.urandom(1 << 16)).digest()
            if turn % 5 == 0:
                pid = os.fork()
                if pid == 0:
                    held = [bytes(size) for size in range(1, 200_000, 997)]
                    os._exit(len(held) % 7)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 201 % 7
            if turn % 7 == 0:
                assert subprocess.run(["true"]).returncode == 0
        numbers.append(random.random())
    except BaseException as exc:
        failures.append(exc)
threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
for one in threads: one.start()
for one in threads: one.join()
assert not failures, failures
assert len(set(numbers)) == 6
print("well")
"""


def test_threads_and_forks() -> None:
    """Locks, the allocator's included, belong to the new process and its threads."""
    for _ in range(10):
        assert script(FORKS_AND_THREADS) == "well"


def test_memory_goes_back() -> None:
    """What was taken for a while, large blocks and many small ones, is given back."""
    text = """
def resident_kb():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1])
def use():
    large = [bytes([1]) * (8 << 20) for _ in range(20)]
    small = [str(n) * 3 for n in range(1_500_000)]
use(); before = resident_kb()
for _ in range(5): use()
print(resident_kb() - before, resident_kb())
"""
    growth_kb, resident_kb = map(int, script(text).split())
    assert growth_kb < 4096
    assert resident_kb < 80 * 1024


def qemu() -> str:
    """The emulator of this machine's kind."""
    found = shutil.which(f"qemu-{os.uname().machine}-static")
    if found is None:
        pytest.skip("qemu-user-static is needed to be another processor")
    return found


MODELS = {
    "x86_64": ["qemu64", "core2duo", "Nehalem", "Haswell", "EPYC", "max"],
    "aarch64": ["cortex-a53", "cortex-a72", "neoverse-n1", "max"],
}


@pytest.mark.parametrize("model", MODELS[os.uname().machine])
def test_it_runs_on_other_processors(model: str, tmp_path: Path) -> None:
    """Old and new ones: nothing that it needs was found out where it was built."""
    command = [qemu(), "-cpu", model]
    environment = {**LAUNCH, "SANDBOX_STATE_DIR": str(tmp_path / "state")}
    with subprocess.Popen(
        [*command, BINARY, "-p", "0"], stderr=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as daemon:
        port = listening_port(daemon)
        path = f"/filesystem/{tmp_path}/a.txt"
        assert ask(port, "PUT", path, json.dumps({"content": "ä" * 5000}))[0] == 200
        assert json.loads(ask(port, "GET", path)[1])["content"] == "ä" * 5000
        end(daemon)
    hashed = "import hashlib; print(hashlib.sha256(b'a').hexdigest())"
    result = subprocess.run([*command, CHECKER, "/dev/stdin"], input=hashed, text=True,
                            capture_output=True, check=True, env=LAUNCH)  # fmt: skip
    assert result.stdout.startswith("ca978112ca1bbdcafac231b39a23dc4d")


def listening_port(daemon: "subprocess.Popen[bytes]") -> int:
    """The port that its log names."""
    assert daemon.stderr is not None
    lines = []
    for line in daemon.stderr:
        lines.append(line)
        if b"listening on port" in line:
            return int(json.loads(line)["port"])
    raise AssertionError(b"".join(lines).decode())


def end(daemon: "subprocess.Popen[bytes]") -> None:
    """It ends well when it is told to."""
    assert daemon.stderr is not None
    daemon.terminate()
    rest = daemon.stderr.read()
    assert daemon.wait(30) == 0, rest


def test_a_start_with_a_warning_gives_memory_back_as_well(tmp_path: Path) -> None:
    """The warning starts no thread, beside which nothing could be given back."""

    def resident_kb(*arguments: str) -> int:
        environment = {**LAUNCH, "SANDBOX_STATE_DIR": str(tmp_path)}
        with subprocess.Popen(
            [BINARY, "-p", "0", *arguments], stderr=subprocess.PIPE, env=environment
        ) as daemon:
            assert ask(listening_port(daemon), "GET", "/health")[0] == 200
            _, _, resident = held(daemon.pid)
            end(daemon)
        return resident

    assert resident_kb("ignored") < resident_kb() + 2048


@contextmanager
def running(directory: Path) -> Iterator[tuple[int, int]]:
    """Process id and port of a daemon that keeps its state there."""
    environment = {
        **LAUNCH,
        "SANDBOX_STATE_DIR": str(directory / "state"),
        "SANDBOX_MAX_PROCESS_RECORDS": "100",
    }
    with subprocess.Popen(
        [BINARY, "-p", "0"], stderr=subprocess.PIPE, env=environment, cwd=directory
    ) as daemon:
        port = listening_port(daemon)
        assert daemon.stderr is not None
        log = threading.Thread(target=daemon.stderr.read)  # a full pipe must not be what is tested
        log.start()
        try:
            yield daemon.pid, port
        finally:
            daemon.terminate()
            log.join(30)
        assert daemon.wait(30) == 0


@pytest.mark.timeout(600)
def test_ten_thousand_mixed_requests(tmp_path: Path) -> None:
    """Eight clients at a time; afterwards it holds no more than after the first thousand."""
    with running(tmp_path) as (pid, port):

        def request(number: int) -> int:
            path = f"/filesystem/{tmp_path}/{number % 16}.txt"
            content = json.dumps({"content": f"{number} ä" * (number % 3000)})
            command = json.dumps({"command": f"echo {number}", "waitForCompletion": True})
            method, target, body = (
                ("GET", "/health", None),
                ("PUT", path, content),
                ("GET", f"/filesystem/{tmp_path}", None),
                ("POST", "/process", command),
                ("GET", f"/filesystem-find/{tmp_path}?patterns=*.txt", None),
                ("GET", "/network/ports", None),
            )[number % 6]
            return ask(port, method, target, body)[0]

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(request, range(2000))) == {200}
            before = held(pid)
            assert set(pool.map(request, range(10_000))) == {200}
        descriptors, threads, resident_kb = held(pid)
        assert descriptors <= before[0] + 8  # connections that are kept alive
        assert threads <= before[1] + 2
        assert resident_kb < before[2] + 16 * 1024


@pytest.mark.timeout(600)
def test_g19_five_thousand_commands(tmp_path: Path) -> None:
    """Afterwards it holds what it held after five hundred."""
    with running(tmp_path) as (pid, port):

        def execute(number: int) -> object:
            body = json.dumps({"command": f"echo {number}; exit 3", "waitForCompletion": True})
            status, reply = ask(port, "POST", "/process", body)
            answer = json.loads(reply)
            return status, answer["exitCode"], answer["stdout"] == f"{number}\n"

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(execute, range(500))) == {(200, 3, True)}
            before = held(pid)
            assert set(pool.map(execute, range(5000))) == {(200, 3, True)}
        descriptors, threads, resident_kb = held(pid)
        assert descriptors <= before[0] + 8  # connections that are kept alive
        assert threads <= before[1] + 2
        assert resident_kb < before[2] + 4 * 1024


def held(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads and resident memory in KiB."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return descriptors, int(status["Threads"]), int(status["VmRSS"].split()[0])


@pytest.mark.timeout(900)
def test_two_thousand_starts_and_stops(tmp_path: Path) -> None:
    """Each listens, and ends with 0: four at a time, as on a busy host."""

    def start_and_stop(number: int) -> int:
        environment = {**LAUNCH, "SANDBOX_STATE_DIR": str(tmp_path / str(number % 4))}
        with subprocess.Popen(
            [BINARY, "-p", "0"], stderr=subprocess.PIPE, env=environment
        ) as process:
            listening_port(process)
            end(process)
            return process.returncode

    with ThreadPoolExecutor(4) as pool:
        assert Counter(pool.map(start_and_stop, range(2000))) == {0: 2000}
