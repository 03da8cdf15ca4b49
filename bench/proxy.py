"""A gigabyte each way through /port, beside the direct way and the least that a relay can cost.

    bench/proxy.py [-n 5] [--bytes 268435456] [--chunk 1048576] [COMMAND]

COMMAND starts the daemon (".venv/bin/python -m sandbox_api"). App and client do nothing with what
they read, so that the figures are those of the way. "splice" is a relay that knows no HTTP:
two threads that do nothing but splice(2) from socket to socket; "copy" reads and writes. All in one
run: rates as parts of the direct one, and the processor time that each relay takes for a gigabyte,
which says more than rates do where other programs run or where three programs share two cores.

At last small chunks, each of which takes its time: how long `/health` takes at most beside them, as
a multiple of an idle one, and as much beside the floor, an answer of as many bytes with a length.
"""

import argparse
import fcntl
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

BUFFER_BYTES = 1 << 20
COPIED_BYTES = 1 << 18
END = b"0\r\n\r\n"
GIGABYTE = 1e9
SMALL_CHUNKS = (1, 16, 64, 1024)
SMALL_WIRE_BYTES = 4 << 20


def listen() -> socket.socket:
    """A free port; whoever started us is told which."""
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    return server


def run_relay(kind: str, app_port: int) -> None:
    """The floor: bytes from one socket to another, both ways."""
    server = listen()
    while True:
        client, _ = server.accept()
        app = socket.create_connection(("127.0.0.1", app_port))
        for pair in ((client, app), (app, client)):
            target = splice if kind == "splice" else copy
            threading.Thread(target=target, args=pair, daemon=True).start()


def splice(source: socket.socket, target: socket.socket) -> None:
    """Until the end, within the kernel."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, BUFFER_BYTES)
    while held := os.splice(source.fileno(), write_end, BUFFER_BYTES):
        while held:
            held -= os.splice(read_end, target.fileno(), held)
    target.shutdown(socket.SHUT_WR)


def copy(source: socket.socket, target: socket.socket) -> None:
    """Until the end, through one buffer."""
    buffer = bytearray(COPIED_BYTES)
    while count := source.recv_into(buffer):
        target.sendall(memoryview(buffer)[:count])
    target.shutdown(socket.SHUT_WR)


def run_app(size: int, chunk: int) -> None:
    """Gives and takes bodies."""
    server = listen()
    while True:
        client, _ = server.accept()
        threading.Thread(target=serve, args=(client, size, chunk), daemon=True).start()


def serve(client: socket.socket, size: int, chunk: int) -> None:
    """One request: GET gives a body, anything else takes one."""
    head, rest = read_head(client)
    chunked = b"chunked" in head
    if head.startswith(b"GET"):
        client.sendall(b"HTTP/1.1 200 OK\r\n" + framing(size, chunked=chunked))
        send_body(client, size, chunk if chunked else 0)
    else:
        read_body(client, rest, size, chunked=chunked)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client.close()


def read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """A head, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := client.recv(65536)):
            raise SystemExit("the connection has ended in a head")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def framing(size: int, *, chunked: bool) -> bytes:
    """The end of a head."""
    return (
        b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    ) + b"\r\n\r\n"


def send_body(target: socket.socket, size: int, chunk: int) -> None:
    """Zeros, in chunks of so many bytes, or as they are."""
    piece = bytes(chunk or BUFFER_BYTES)
    framed = memoryview(b"%x\r\n%s\r\n" % (chunk, piece) if chunk else piece)
    for _ in range(size // len(piece)):
        target.sendall(framed)
    if chunk:
        target.sendall(END)


def read_body(source: socket.socket, rest: bytes, size: int, *, chunked: bool) -> None:
    """To its end, without a look at it."""
    buffer, got, tail = bytearray(BUFFER_BYTES), len(rest), rest[-len(END) :]
    while tail != END if chunked else got < size:
        if not (count := source.recv_into(buffer)):
            raise SystemExit("the connection has ended in a body")
        got += count
        tail = (tail + bytes(buffer[max(0, count - len(END)) : count]))[-len(END) :]


def transfer(port: int, path: str, *, upload: bool, size: int, chunk: int) -> float:
    """One body; bytes per second."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as app:
        if upload:
            head = f"PUT {path} HTTP/1.1\r\nHost: x\r\n".encode()
            app.sendall(head + framing(size, chunked=bool(chunk)))
            send_body(app, size, chunk)
            assert read_head(app)[0].startswith(b"HTTP/1.1 200")
        else:
            query = "?chunked" if chunk else ""
            app.sendall(f"GET {path}{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            read_body(app, read_head(app)[1], size, chunked=bool(chunk))
    return size / (time.perf_counter() - started)


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process, those that have ended as well."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_own(*arguments: object) -> tuple[subprocess.Popen[str], int]:
    """This script in another part; its port."""
    command = [sys.executable, __file__, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def start_daemon(command: str, state: str) -> tuple[subprocess.Popen[str], int]:
    """The daemon, once it answers; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "SANDBOX_STATE_DIR": state}
    process = subprocess.Popen(
        [*shlex.split(command), "-p", str(port)],
        env=environment,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while True:
        try:
            HTTPConnection("127.0.0.1", port).request("GET", "/health")
        except ConnectionError:
            time.sleep(0.05)
        else:
            return process, port


def compare(arguments: argparse.Namespace, state: str) -> None:
    """All ways in turn, so that a busy moment is everybody's."""
    app, app_port = start_own("--app", arguments.bytes, arguments.chunk)
    ways = {"direct": (app, app_port)}
    for kind in ("splice", "copy"):
        ways[kind] = start_own("--relay", kind, app_port)
    ways["daemon"] = start_daemon(arguments.command, state)
    try:
        for upload in (False, True):
            for chunk in (0, arguments.chunk):
                measure(ways, arguments, upload=upload, chunk=chunk)
        measure_health(ways["daemon"][1], arguments.n)
        peak = Path(f"/proc/{ways['daemon'][0].pid}/status").read_text().partition("VmHWM:")[2]
        print(f"memory of the daemon at most: {int(peak.split()[0]) / 1e3:.0f} MB")
    finally:
        for process, _ in ways.values():
            process.terminate()
            process.wait()


def measure(
    ways: dict[str, tuple[subprocess.Popen[str], int]],
    arguments: argparse.Namespace,
    *,
    upload: bool,
    chunk: int,
) -> None:
    """One kind of body, and a line for it."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.n):
        for way, (process, port) in ways.items():
            path = f"/port/{ways['direct'][1]}/" if way == "daemon" else "/"
            before = cpu_s(process.pid)
            rates[way].append(
                transfer(port, path, upload=upload, size=arguments.bytes, chunk=chunk)
            )
            spent[way].append((cpu_s(process.pid) - before) * GIGABYTE / arguments.bytes)
    direct = statistics.median(rates["direct"])
    framed = f"in chunks of {chunk}" if chunk else "with a length"
    print(f"{'upload' if upload else 'download'} {framed}: direct {direct / GIGABYTE:.2f} GB/s")
    for way in list(ways)[1:]:
        ratio = statistics.median(rates[way]) / direct
        low, high = min(rates[way]) / direct, max(rates[way]) / direct
        cpu = statistics.median(spent[way])
        print(f"  {way:7} {ratio:.2f} of direct ({low:.2f}-{high:.2f})  {cpu:.2f} s CPU per GB")


def serve_small(server: socket.socket) -> None:
    """An app that gives a body of so many bytes on the wire; the path is the size of its chunks."""
    while True:
        client, _ = server.accept()
        with client:
            chunk = int(read_head(client)[0].split(b"/")[1].split()[0])
            framed = b"%x\r\n%s\r\n" % (chunk, bytes(chunk)) if chunk else bytes(1)
            wire = framed * (SMALL_WIRE_BYTES // len(framed)) + (END if chunk else b"")
            head = framing(len(wire), chunked=bool(chunk))
            client.sendall(b"HTTP/1.1 200 OK\r\n" + head + wire)


def measure_health(port: int, rounds: int) -> None:
    """What an answer in small chunks costs everybody else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve_small, args=(server,), daemon=True).start()
        app_port = server.getsockname()[1]
        slowest: dict[int, list[float]] = {chunk: [] for chunk in (0, *SMALL_CHUNKS)}
        for _ in range(rounds):
            for chunk, times in slowest.items():
                times.append(slowest_health_s(port, f"/port/{app_port}/{chunk}"))
    floor = statistics.median(slowest.pop(0))
    idle = statistics.median(get(port, "/health") for _ in range(50))
    print(f"/health when idle: {idle * 1e3:.1f} ms")
    print(f"  the slowest beside an answer with a length: {floor / idle:.1f} times that")
    for chunk, times in slowest.items():
        ratio = statistics.median(times) / idle
        low, high = min(times) / idle, max(times) / idle
        print(f"  beside one in chunks of {chunk:4}: {ratio:.1f} times ({low:.1f}-{high:.1f})")


def slowest_health_s(port: int, path: str) -> float:
    """The longest time that one of the requests took that were made while a body came."""
    reader = threading.Thread(target=get, args=(port, path))
    reader.start()
    slowest = get(port, "/health")
    while reader.is_alive():
        slowest = max(slowest, get(port, "/health"))
    return slowest


def get(port: int, path: str) -> float:
    """One answer, to its end; seconds."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    body = connection.getresponse()
    while body.read(BUFFER_BYTES):
        pass
    connection.close()
    return time.perf_counter() - started


def main() -> None:
    """One of the parts, or the comparison."""
    if sys.argv[1:2] == ["--app"]:
        run_app(int(sys.argv[2]), int(sys.argv[3]))
    if sys.argv[1:2] == ["--relay"]:
        run_relay(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--chunk", type=int, default=BUFFER_BYTES)
    parser.add_argument("command", nargs="?", default=f"{sys.executable} -m sandbox_api")
    with tempfile.TemporaryDirectory() as state:
        compare(parser.parse_args(), state)


if __name__ == "__main__":
    main()
