"""Uploads of any size in the memory of a few pieces (G21): parts in parallel, and raw bytes."""

import hashlib
import http.client
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

MIB = 1 << 20
PART_MIB = 32
LARGE = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes, on a busy disk
BLOCK = os.urandom(MIB)


def piece(number: int) -> bytes:
    """A megabyte that no other number has."""
    return number.to_bytes(8, "big") + BLOCK[8:]


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) / 1024


def digest(pieces: Iterator[bytes]) -> str:
    found = hashlib.blake2b()
    for one in pieces:
        found.update(one)
    return found.hexdigest()


def read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while one := file.read(MIB):
            yield one


def call(
    port: int,
    method: str,
    target: str,
    body: object = b"",
    headers: Mapping[str, str] | None = None,
) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, target, body, headers or {})  # type: ignore[arg-type]
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    connection.close()
    assert reply.status == 200, answer
    return dict(answer)


def send_part(port: int, upload: str, number: int) -> dict[str, object]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="part"\r\n\r\n'
    tail = b"\r\n--b--\r\n"
    first = (number - 1) * PART_MIB

    def body() -> Iterator[bytes]:
        yield head
        yield from map(piece, range(first, first + PART_MIB))
        yield tail

    headers = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Length": str(len(head) + PART_MIB * MIB + len(tail)),
    }
    target = f"/filesystem-multipart/{upload}/part?partNumber={number}"
    return call(port, "PUT", target, body(), headers)


def send_parts(port: int, path: Path, size_mib: int) -> None:
    """In a multipart session, four at a time."""
    target = f"/filesystem-multipart/initiate/{quote(str(path), safe='')}"
    upload = str(call(port, "POST", target)["uploadId"])
    numbers = range(1, size_mib // PART_MIB + 1)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda number: send_part(port, upload, number), numbers))
    body = json.dumps({"parts": parts}).encode()
    call(port, "POST", f"/filesystem-multipart/{upload}/complete", body)


def send_raw(port: int, path: Path, size_mib: int) -> None:
    """As one body, with a range, so that it could resume."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size_mib * MIB),
        "Content-Range": f"bytes 0-{size_mib * MIB - 1}/{size_mib * MIB}",
    }
    target = f"/filesystem/{quote(str(path), safe='')}"
    call(port, "PUT", target, map(piece, range(size_mib)), headers)


@pytest.mark.parametrize(
    ("send", "size_mib"),
    [
        (send_parts, 256),
        (send_raw, 256),
        pytest.param(send_parts, 10_240, marks=LARGE),
        pytest.param(send_raw, 10_240, marks=LARGE),
    ],
)
def test_g21_uploads_in_constant_memory(
    start_daemon: Callable[..., SimpleNamespace],
    tmp_path: Path,
    send: Callable[[int, Path, int], None],
    size_mib: int,
) -> None:
    """Byte-exact, and nothing is left beside the file."""
    daemon = start_daemon()
    path = tmp_path / "work" / "big"
    send(daemon.port, path, PART_MIB)
    before = peak_mib(daemon.process.pid)
    send(daemon.port, path, size_mib)
    assert path.stat().st_size == size_mib * MIB
    assert digest(read(path)) == digest(map(piece, range(size_mib)))
    assert os.listdir(path.parent) == ["big"]
    path.unlink()
    assert peak_mib(daemon.process.pid) - before < 64
