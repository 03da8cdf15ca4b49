"""A search always ends: at the limit, on special files, when its time is over, when nobody waits,
and it sees no more than the workload user."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.core.searches.worker import MODULE
from tests.api.searches.conftest import AppClient, Search
from tests.core.searches.conftest import make

Eventually = Callable[..., Awaitable[object]]
HOPELESS = {"query": "(a|a)+$", "regex": "true"}  # takes exponential time
TRAP = "a" * 60 + "!\n"


def workers() -> list[int]:
    """The processes that apply regular expressions for this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = []
    for pid in children:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if MODULE.encode() in command:
            found.append(int(pid))
    return found


def open_files() -> set[str]:
    """The paths of the files that are open in this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


async def test_g23_at_the_limit(search: Search, work: Path) -> None:
    """However many lines match (spec/filesystem.md 15, 1)."""
    make(work, {"f": "".join(f"match_{n}\n" for n in range(5000))})
    for regex in ("", "true"):
        answer = await search("content", query="match", regex=regex)
        assert (answer.json["total"], answer.json["truncated"]) == (100, True)
        assert (await search("content", query="match", regex=regex, maxResults="0")).json[
            "total"
        ] == 5000


async def test_g23_special_files(search: Search, work: Path) -> None:
    """A fifo, a device or a socket is found and not read."""
    make(work, {"f": "needle\n"})
    os.mkfifo(work / "fifo")
    (work / "zero").symlink_to("/dev/zero")
    for regex in ("", "true"):
        answer = await search("content", query="needle", regex=regex)
        assert [match["path"] for match in answer.json["matches"]] == ["f"]
    assert (await search("find")).json["total"] == 3


@pytest.mark.parametrize("root", ["/dev", "/proc/self"])
async def test_g23_system_directories(app_client: AppClient, root: str) -> None:
    """Where files have no end, block, or vanish."""
    client = await app_client(search_timeout_s=5)
    for target in (
        f"/filesystem-find/{root}?maxResults=0",
        f"/filesystem-search/{root}?query=stat",
        f"/filesystem-content-search/{root}?query=no-such-text-anywhere&binary=true",
    ):
        async with client.get(target) as reply:
            assert reply.status == 200, await reply.text()
            assert isinstance((await reply.json())["matches"], list)


async def test_g23_a_file_of_2_gb(search: Search, work: Path) -> None:
    """It passes through in blocks; what is at its end is found."""
    with (work / "big").open("wb") as file:
        file.truncate(2 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nneedle\n")
    answer = await search("content", query="needle", caseSensitive="true", binary="true")
    (match,) = answer.json["matches"]
    assert (match["line"], match["column"], match["text"]) == (2, 1, "needle")


async def test_g23_when_the_time_is_over(app_client: AppClient, tree: Path) -> None:
    """The answer is what there is by then, and says so."""
    client = await app_client(search_timeout_s=0)
    for target in ("find/", "search/?query=a", "content-search/?query=a"):
        async with client.get(f"/filesystem-{target}") as reply:
            answer = await reply.json()
            assert (reply.status, answer["matches"]) == (200, [])
            assert (answer["truncated"], answer["timedOut"]) == (True, True)


async def test_g23_a_regular_expression_without_end(app_client: AppClient, work: Path) -> None:
    """Its process is killed; what it had found is told, and others are answered meanwhile."""
    client = await app_client(search_timeout_s=1)
    make(work, {"a": "aaa\n", "b": TRAP})
    hopeless = asyncio.create_task(ask(client, HOPELESS))
    async with client.get("/filesystem-content-search/", params={"query": "aaa"}) as reply:
        assert (await reply.json())["total"] == 2
    answer = await hopeless
    assert [match["path"] for match in answer["matches"]] == ["a"]
    assert (answer["truncated"], answer["timedOut"]) == (True, True)
    assert workers() == []


async def ask(client: TestClient, query: dict[str, str]) -> dict:
    async with client.get("/filesystem-content-search/", params=query) as reply:
        return await reply.json()


async def test_g23_when_the_client_leaves(
    app_client: AppClient, work: Path, eventually: Eventually
) -> None:
    """The process of a regular expression is killed, and a thread ends its work."""
    client = await app_client(search_timeout_s=1000)
    make(work, {"b": TRAP})
    asking = asyncio.create_task(ask(client, HOPELESS))
    await eventually(workers)
    asking.cancel()
    await eventually(lambda: not workers())
    endless = work / "endless"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    asking = asyncio.create_task(ask(client, {"query": "needle", "binary": "true"}))
    await eventually(lambda: str(endless) in open_files())
    asking.cancel()
    await eventually(lambda: str(endless) not in open_files())


async def test_g23_memory_is_bounded(app_client: AppClient, work: Path) -> None:
    """An expression that remembers each of millions of steps is refused in time."""
    client = await app_client(search_timeout_s=60)
    make(work, {"f": "ab" * 1_500_000})
    answer = await ask(client, {"query": r"\A(?:(a)|(b)|(c))*[xy]", "regex": "true"})
    assert answer["error"].startswith("invalid regular expression: it takes too much memory")


async def test_g29_only_what_the_user_may_read(app_client: AppClient, tmp_path: Path) -> None:
    """With a workload user a search sees what that user sees (spec/filesystem.md 15, 21)."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    client = await app_client(user="65534:65534")
    make(tmp_path, {"work/closed/secret": "needle\n", "work/open": "needle\n", "work/f": "needle"})
    (tmp_path / "work/closed").chmod(0o700)
    (tmp_path / "work/f").chmod(0o600)
    for directory in (tmp_path / "work", tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o005)
    for regex in ("", "true"):
        answer = await ask(client, {"query": "needle", "regex": regex})
        assert [match["path"] for match in answer["matches"]] == ["open"]
        assert answer["unreadable"] == 2
    async with client.get("/filesystem-find/") as reply:
        answer = await reply.json()
        assert [match["path"] for match in answer["matches"]] == ["f", "open"]
        assert answer["unreadable"] == 1
    for route in ("find/closed", "search/closed?query=s", "content-search/closed?query=n"):
        async with client.get(f"/filesystem-{route}") as reply:
            assert reply.status == 422
            assert "permission denied" in (await reply.json())["error"]
