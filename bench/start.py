"""Start time, memory and size of daemons, beside each other in one run.

    bench/start.py [-n 10] [--cold] dist/sandbox-api-linux-amd64 ".venv/bin/python -m sandbox_api"

Listening and start are from the spawn to the first connection and to the first answer of /health;
PSS is that of the process after it. With `--cold` the kernel's page cache is emptied before each
start, which only root can do.
"""

import argparse
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

DEADLINE_S = 30.0


def measure(command: list[str]) -> tuple[float, ...]:
    """To the first connection and to the first answer in ms, CPU until then in ms, PSS in MB, and
    from SIGTERM to the end in ms.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as state:
        environment = {"PATH": os.environ["PATH"], "SANDBOX_STATE_DIR": state}
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "-p", str(port)], env=environment, stderr=subprocess.DEVNULL
        )
        listening = wait_for_answer(port)
        up = time.perf_counter()
        cpu_ns = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        pss = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
        told = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        process.wait()
        ended = time.perf_counter()
    times_ms = ((one - started) * 1e3 for one in (listening, up))
    return *times_ms, cpu_ns / 1e6, int(pss.split()[1]) / 1e3, (ended - told) * 1e3


def forget_files() -> None:
    """Empty the kernel's page cache: proc_sys_vm(5)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    subprocess.run(["/bin/true"], check=True)  # what every spawn reads is there again


def wait_for_answer(port: int) -> float:
    """Connect until somebody listens and ask once; returns when that was."""
    deadline = time.perf_counter() + DEADLINE_S
    while time.perf_counter() < deadline:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
        except ConnectionError:
            time.sleep(0.0002)
            continue
        listening = time.perf_counter()
        with closing(connection):
            connection.request("GET", "/health")
            if connection.getresponse().status != HTTPStatus.OK:
                sys.exit("/health did not answer 200")
        return listening
    sys.exit(f"nobody listens on port {port} after {DEADLINE_S:.0f} s")


def main() -> None:
    """Alternate between the commands, so that a busy moment is everybody's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("commands", nargs="+")
    arguments = parser.parse_args()
    commands = {command: shlex.split(command) for command in arguments.commands}
    runs: dict[str, list[tuple[float, ...]]] = {command: [] for command in commands}
    for command in commands.values():
        measure(command)  # not counted: the page cache is cold
    for _ in range(arguments.n):
        for text, command in commands.items():
            if arguments.cold:
                forget_files()
            runs[text].append(measure(command))
    for text, values in runs.items():
        listening, start, cpu, pss, stop = (
            statistics.median(column) for column in zip(*values, strict=True)
        )
        low, high = min(row[1] for row in values), max(row[1] for row in values)
        print(
            f"listening {listening:.1f} ms  start {start:.1f} ms ({low:.1f}-{high:.1f})  "
            f"CPU {cpu:.0f} ms  PSS {pss:.1f} MB  stop {stop:.0f} ms  {text}"
        )


if __name__ == "__main__":
    main()
