"""Long listings: in pages, in pieces, and without holding up others."""

import http.client
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote_to_bytes

import pytest

from tests.api.files.conftest import Call


async def test_pages(call: Call, work: Path) -> None:
    """Following the cursor gives everything once, in order, whatever bytes a name holds."""
    names = [b"a", b"b\xff", b"c\n", "é".encode(), b"\xfe", *(b"x%03d" % n for n in range(20))]
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(work), name)
        os.mkdir(path) if number % 3 == 0 else os.mknod(path)
    for target in ("", f"tree/{quote(str(work), safe='')}"):
        seen: list[str] = []
        cursor = ""
        while True:
            page = (await call("GET", f"{target}?limit=4&cursor={quote(cursor)}")).json()
            entries = page["files"] + page["subdirectories"]
            assert len(entries) <= 4
            seen += [entry.get("rawPath") or quote(entry["path"], safe="") for entry in entries]
            if "nextCursor" not in page:
                break
            cursor = page["nextCursor"]
        assert len(seen) == len(set(seen)) == len(names)
        shown = (unquote_to_bytes(name).rsplit(b"/", 1)[-1] for name in seen)
        assert sorted(shown) == sorted(names)


async def test_pages_stay_true_while_entries_come_and_go(call: Call, work: Path) -> None:
    """What is there all the time is listed once."""
    for name in "bdfh":
        (work / name).touch()
    page = (await call("GET", "?limit=2")).json()
    assert [file["name"] for file in page["files"]] == ["b", "d"]
    (work / "a").touch()
    (work / "d").unlink()
    page = (await call("GET", f"?limit=2&cursor={page['nextCursor']}")).json()
    assert [file["name"] for file in page["files"]] == ["f", "h"]
    assert "nextCursor" not in page


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "cursor=%21", "cursor=abc"])
async def test_bad_pages(call: Call, query: str) -> None:
    """A limit of nothing, and a cursor that is not ours."""
    answer = await call("GET", f"?{query}")
    assert (answer.status, "invalid" in str(answer.error)) == (400, True)


async def test_long_listings_are_the_same(call: Call, work: Path) -> None:
    """What comes in pieces is what comes at once."""
    for number in range(1000):
        (work / f"{number:04}").touch()
        (work / f"d{number:04}").mkdir()
    listing = (await call("GET", "")).json()
    assert [file["name"] for file in listing["files"]] == [f"{n:04}" for n in range(1000)]
    assert [each["name"] for each in listing["subdirectories"]] == [
        f"d{number:04}" for number in range(1000)
    ]
    assert listing["path"] == str(work)
    page = (await call("GET", "?limit=1500")).json()
    assert page["files"] == listing["files"]
    assert page["subdirectories"] == listing["subdirectories"][:500]
    for name in os.listdir(work):
        if name.startswith("d"):
            os.rmdir(work / name)
    listing = (await call("GET", "")).json()
    assert (len(listing["files"]), listing["subdirectories"]) == (1000, [])


@pytest.mark.slow
@pytest.mark.timeout(900)  # to make 100,000 files takes a while on a busy disk
def test_large_directories_hold_up_nobody(
    start_daemon: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    """100,000 entries are listed, and no other answer waits for more than a part of that."""
    large = tmp_path / "large"
    large.mkdir()
    for number in range(100_000):
        os.close(os.open(large / f"file-{number * 7919 % 100_003}", os.O_CREAT))
    daemon = start_daemon()
    for path in (f"/{large}", f"/tree{large}?recursive=true&maxFiles=100000"):
        done = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(longest_wait, daemon.port, done)
            began = time.monotonic()
            listing = get(daemon.port, f"/filesystem{path}")
            took_s = time.monotonic() - began
            done.set()
        assert listing.count(b'"name":"file-') == 100_000
        assert waiting.result() < took_s / 4


def longest_wait(port: int, done: threading.Event) -> float:
    """Ask for /health again and again; the most seconds that an answer took."""
    longest_s = 0.0
    while not done.is_set():
        began = time.monotonic()
        get(port, "/health")
        longest_s = max(longest_s, time.monotonic() - began)
    return longest_s


def get(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()
