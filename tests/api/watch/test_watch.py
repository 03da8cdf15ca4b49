"""`GET /watch/filesystem`: framing, paths and what a request may ask for."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from sandbox_api.api import watch as watch_handlers
from sandbox_api.api import wire
from sandbox_api.core.watch import history
from tests.api.watch.conftest import Watch


async def test_lines_are_byte_for_byte_those_of_the_reference(watch: Watch, work: Path) -> None:
    """Keys in that order, no blanks, the directory without a slash at its end."""
    lines = await watch()
    (work / "f é").touch()
    assert await lines.next() == (
        f'{{"op":"CREATE","name":"f é","path":"{work}","error":null}}\n'.encode()
    )
    (work / "f é").chmod(0o600)
    assert await lines.next() == (
        f'{{"op":"CHMOD","name":"f é","path":"{work}","error":null}}\n'.encode()
    )


async def test_g24_headers_say_that_it_is_armed(watch: Watch, work: Path) -> None:
    """They come before any event, and what is made right after them is told."""
    lines = await watch()
    (work / "f").touch()
    headers = lines.answer.headers
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["Transfer-Encoding"] == "chunked"
    assert await lines.told(1) == ["CREATE f"]


async def test_g07_keepalive_comes_after_silence_only(
    watch: Watch, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare line, again and again."""
    assert watch_handlers.SILENCE_S == 15.0
    monkeypatch.setattr(watch_handlers, "SILENCE_S", 0.05)
    lines = await watch()
    assert await lines.next() == b"[keepalive]\n"
    assert await lines.next() == b"[keepalive]\n"
    (work / "f").touch()
    while (line := await lines.next()) == b"[keepalive]\n":
        pass
    assert json.loads(line)["op"] == "CREATE"


@pytest.mark.parametrize(
    "target",
    ["sub/**", "sub/%2A%2A", "sub%2F**", "{work}/sub/**", "%2F{work}%2Fsub%2F%2a%2a", "**"],
)
async def test_recursive_in_every_spelling(watch: Watch, work: Path, target: str) -> None:
    """Relative and absolute, encoded or not; without a directory it is all of the own."""
    (work / "sub" / "deep").mkdir(parents=True)
    lines = await watch(target.replace("{work}", str(work)))
    (work / "sub" / "deep" / "f").touch()
    event = await lines.event()
    assert (event["name"], event["path"]) == ("f", f"{work}/sub/deep")


async def test_every_name_can_be_watched(watch: Watch, work: Path) -> None:
    """Line breaks and bytes that are no UTF-8 are shown as JSON can show them."""
    (work / os.fsdecode(b"a\n\xff")).mkdir()
    lines = await watch("a%0A%FF/**")
    (work / os.fsdecode(b"a\n\xff") / "f\n").touch()
    event = await lines.event()
    assert (event["name"], event["path"]) == ("f\n", f"{work}/a\n\ufffd")


async def test_plain_watch_of_the_working_directory(watch: Watch, work: Path) -> None:
    """Of the directory alone, however its path is written; what is shown is absolute."""
    (work / "sub").mkdir()
    for target in ("", ".", "sub/.."):
        lines = await watch(target)
        (work / "sub" / "in").touch()
        (work / f"f{target.replace('/', '-')}").touch()
        event = await lines.event()
        assert event["path"] == str(work)
        assert event["name"].startswith("f")


async def test_watch_of_the_root(watch: Watch, tmp_path: Path) -> None:
    """`path` is empty then: path and name are joined by a slash."""
    lines = await watch("%2F")
    name = f"sandbox-api-test-{tmp_path.name}"
    try:
        os.mkdir(f"/{name}")
    except OSError:
        pytest.skip("the root directory cannot be written here")
    os.rmdir(f"/{name}")
    assert (await lines.until(name))[-1]["path"] == ""


async def test_ignore_is_a_list_of_texts(watch: Watch, work: Path) -> None:
    """Anywhere in the full path, empty ones do not count."""
    (work / "skip").mkdir()
    lines = await watch("**?ignore=,skip,.log,")
    (work / "skip" / "a").touch()
    (work / "b.log").touch()
    (work / "c").touch()
    assert await lines.told(1) == ["CREATE c"]


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("missing", 400, "path is not a directory"),
        ("missing/**", 400, "path is not a directory"),
        ("file", 400, "path is not a directory"),
        ("file/below", 422, "stat "),
        ("a%00b", 400, "NUL"),
        (".sandbox-api-x", 400, "path is not a directory"),
        ("n" * 300, 422, "file name too long"),
        ("?poll=maybe", 400, "neither true nor false"),
        ("?since=x", 400, "invalid since"),
        ("?since=-1", 400, "invalid since"),
        ("?since=" + "9" * 30, 400, "invalid since"),
    ],
)
async def test_what_cannot_be_watched(
    watch: Watch, work: Path, target: str, status: int, text: str
) -> None:
    """A JSON error before anything is streamed."""
    (work / "file").touch()
    (work / ".sandbox-api-x").mkdir()
    lines = await watch(target, status)
    assert text in (await lines.answer.json())["error"]


@pytest.mark.parametrize(
    ("target", "status"), [("", 200), ("**", 200), ("sub", 200), ("missing", 404), ("file", 404)]
)
async def test_g26_head_tells_whether_it_is_there(
    client: TestClient, work: Path, target: str, status: int
) -> None:
    """Without watching anything."""
    (work / "sub").mkdir()
    (work / "file").touch()
    async with client.head(URL(f"/watch/filesystem/{target}", encoded=True)) as answer:
        assert answer.status == status
        assert await answer.read() == b""
    assert client.app[wire.WATCHES].kernel_watches == 0


async def test_no_slash_is_redirected(client: TestClient) -> None:
    """As the reference does it."""
    async with client.get("/watch/filesystem", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, "/watch/filesystem/")


async def test_g24_removed_directory_ends_the_stream(watch: Watch, work: Path) -> None:
    """A line with why, then a clean end."""
    (work / "sub").mkdir()
    lines = await watch("sub")
    shutil.rmtree(work / "sub")
    assert await lines.told(1) == ["REMOVE sub"]
    last = await lines.event()
    assert (last["op"], last["name"], last["path"]) == ("", "", f"{work}/sub")
    assert "was removed" in last["error"]
    assert await lines.next() == b""


async def test_g07_end_of_the_daemon_is_told(watch: Watch, client: TestClient, work: Path) -> None:
    """The stream ends with a line that says that the directory did not."""
    lines = await watch("**")
    closing = asyncio.create_task(client.server.close())
    last = await lines.event()
    assert last["op"] == ""
    assert "daemon stops" in last["error"]
    assert await lines.next() == b""
    await closing


async def test_client_that_leaves_gives_its_watch_back(
    watch: Watch, client: TestClient, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has nothing left to do."""
    lines = await watch("**")
    assert client.app[wire.WATCHES].kernel_watches == 1
    lines.answer.close()
    async with asyncio.timeout(20):
        await _until_unwatched(client)


async def _until_unwatched(client: TestClient) -> None:
    while True:
        if not client.app[wire.WATCHES].kernel_watches:
            return
        await asyncio.sleep(0.01)


class TestAdditions:
    """What a line has only when the request asks for it."""

    async def test_content_of_small_texts(self, watch: Watch, work: Path) -> None:
        """Of what was created or written; not of what is large, binary, special or gone."""
        lines = await watch("?content=true")
        (work / "text").write_text("größe\n")
        (work / "large").write_bytes(b"x" * 65537)
        (work / "binary").write_bytes(b"\0\xff")
        (work / "latin").write_bytes(b"\xe9")
        os.mkfifo(work / "fifo")
        (work / "link").symlink_to("text")
        (work / "directory").mkdir()
        (work / "last").touch()
        events = await lines.until("last")
        contents = {e["name"]: e["content"] for e in events if "content" in e}
        assert contents == {"text": "größe\n", "last": ""}
        assert list(events[0]) == ["op", "name", "path", "error", "content"]

    async def test_numbers_and_resume(self, watch: Watch, work: Path) -> None:
        """Each event has the number after the one before; who comes back has missed none."""
        lines = await watch("?numbers=true")
        start = await lines.event()
        assert (start["op"], start["error"]) == ("", None)
        (work / "a").touch()
        first = await lines.event()
        assert first["number"] == start["number"] + 1
        assert list(first) == ["op", "name", "path", "error", "number"]
        lines.answer.close()
        (work / "b").touch()
        again = await watch(f"?since={first['number']}")
        assert (await again.event())["number"] == first["number"]
        (work / "c").touch()
        missed = [await again.event() for _ in range(2)]
        assert [(e["name"], e["number"] - first["number"]) for e in missed] == [("b", 1), ("c", 2)]

    async def test_g24_resume_that_has_a_gap_says_so(self, watch: Watch, work: Path) -> None:
        """The first line has the error; the watch goes on from now."""
        lines = await watch("?since=12345")
        start = await lines.event()
        assert start["op"] == ""
        assert "after event 12345" in start["error"]
        (work / "a").touch()
        assert (await lines.event())["number"] == start["number"] + 1

    async def test_poll(self, watch: Watch, work: Path, client: TestClient) -> None:
        """No kernel watch is needed."""
        lines = await watch("**?poll=true")
        (work / "f").touch()
        assert await lines.told(1) == ["CREATE f"]
        assert client.app[wire.WATCHES].kernel_watches == 0


async def test_g24_reader_that_stalls_holds_up_nobody(
    watch: Watch, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One gets every line; the other, which does not read, is told what it has lost."""
    monkeypatch.setattr(history, "CAPACITY", 50)
    monkeypatch.setattr(history, "TRIM", 10)
    stalled, live = await watch("?content=true"), await watch()
    for number in range(500):  # more than the sockets hold
        (work / f"f{number}").write_text("x" * 60_000)
        while (await live.event())["op"] != "WRITE":
            pass
    (work / "last").touch()
    errors = [event["error"] for event in await stalled.until("last") if event["error"]]
    assert len(errors) >= 1
    assert all("events were lost, since they were read too slowly" in error for error in errors)
