"""If-Match and If-None-Match: two agents cannot lose each other's edit."""

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import FormData

from tests.api.files.conftest import Answer, AppClient, Call


async def write(call: Call, how: str, headers: dict[str, str], content: str = "new") -> Answer:
    """Write `f` in one of the ways that a body may have."""
    if how == "form":
        body = FormData(default_to_multipart=True)
        body.add_field("file", content.encode(), filename="f")
        return await call("PUT", "f", data=body, headers=headers)
    if how == "raw":
        raw = {"Content-Type": "application/octet-stream"}
        return await call("PUT", "f", data=content.encode(), headers={**headers, **raw})
    if how == "resumed":
        raw = {"Content-Type": "application/octet-stream"}
        return await call("PUT", "f?offset=0", data=content.encode(), headers={**headers, **raw})
    return await call("PUT", "f", json={"content": content}, headers=headers)


WAYS = pytest.mark.parametrize("how", ["json", "form", "raw", "resumed"])


@WAYS
async def test_the_etag_of_a_write_is_that_of_the_file(call: Call, how: str) -> None:
    """The writer can go on without reading; JSON and HEAD tell the same."""
    etag = (await write(call, how, {})).headers["ETag"]
    assert etag == (await call("GET", "f")).headers["ETag"]
    assert etag == (await call("HEAD", "f")).headers["ETag"]
    assert etag == (await call("GET", "f?download=true")).headers["ETag"]
    assert (await write(call, how, {"If-Match": etag}, "next")).status == 200


@WAYS
async def test_an_older_version_is_refused(call: Call, work: Path, how: str) -> None:
    """412, with the current ETag, and nothing changed."""
    old = (await write(call, how, {}, "one")).headers["ETag"]
    new = (await write(call, how, {}, "two")).headers["ETag"]
    answer = await write(call, how, {"If-Match": old}, "three")
    assert answer.status == 412
    assert new in str(answer.error)
    assert (await write(call, how, {"If-None-Match": f'"x", {new}'}, "three")).status == 412
    assert (os.listdir(work), (work / "f").read_text()) == (["f"], "two")
    assert (await write(call, how, {"If-Match": f"{old}, {new}"}, "three")).status == 200


@WAYS
async def test_star(call: Call, work: Path, how: str) -> None:
    """`If-Match: *` only overwrites, `If-None-Match: *` only creates."""
    assert (await write(call, how, {"If-Match": "*"})).status == 412
    assert os.listdir(work) == []
    assert (await write(call, how, {"If-None-Match": "*"})).status == 200
    assert (await write(call, how, {"If-None-Match": "*"}, "other")).status == 412
    assert (await write(call, how, {"If-Match": "*"}, "last")).status == 200
    assert (work / "f").read_text() == "last"


async def test_directories(call: Call, work: Path) -> None:
    """They exist or not; they have no ETag."""
    none = {"If-None-Match": "*"}
    assert (await call("PUT", "d/e", json={"isDirectory": True}, headers=none)).status == 200
    assert (await call("PUT", "d/e", json={"isDirectory": True}, headers=none)).status == 412
    assert (await call("DELETE", "d/e", headers={"If-Match": '"x"'})).status == 412
    assert (await call("DELETE", "d/e", headers={"If-Match": "*"})).status == 200
    assert os.listdir(work / "d") == []


async def test_trees(call: Call, work: Path) -> None:
    """As directories: what says an ETag never fits, and of many who make a new tree one wins."""
    files = {"files": {"f": "x"}}
    none, some, wrong = {"If-None-Match": "*"}, {"If-Match": "*"}, {"If-Match": '"x"'}
    tree = f"tree{work}/d"
    assert (await call("PUT", tree, json=files, headers=some)).status == 412
    assert os.listdir(work) == []
    answers = await asyncio.gather(*(call("PUT", tree, json=files, headers=none) for _ in range(9)))
    assert sorted(answer.status for answer in answers) == [200] + [412] * 8
    assert (await call("PUT", tree, json=files, headers=wrong)).status == 412
    assert (await call("PUT", tree, json=files, headers=some)).status == 200
    assert (await call("DELETE", f"{tree}?recursive=true", headers=wrong)).status == 412
    assert os.listdir(work / "d") == ["f"]
    assert (await call("DELETE", f"{tree}?recursive=true", headers=some)).status == 200


async def test_delete(call: Call, work: Path) -> None:
    """Only what has been seen is deleted; of a link, what it leads to."""
    (work / "f").write_text("x")
    (work / "link").symlink_to("f")
    etag = (await call("HEAD", "f")).headers["ETag"]
    assert (await call("DELETE", "f", headers={"If-Match": '"x"'})).status == 412
    assert (await call("DELETE", "f", headers={"If-None-Match": etag})).status == 412
    assert (await call("DELETE", "link", headers={"If-Match": etag})).status == 200
    assert (await call("DELETE", "f", headers={"If-Match": etag})).status == 200
    assert (await call("DELETE", "f", headers={"If-Match": etag})).status == 404
    assert os.listdir(work) == []


@pytest.mark.parametrize("text", ["abc", "", '"a" "b"', '"a', '*, "a"', "'a'"])
@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_a_condition_that_says_nothing_is_refused(
    call: Call, work: Path, name: str, text: str
) -> None:
    """To ignore it would overwrite what it was to protect."""
    (work / "f").write_text("old")
    answer = await call("PUT", "f", json={"content": "new"}, headers={name: text})
    assert (answer.status, str(answer.error).startswith(f"invalid {name} ")) == (400, True)
    assert (work / "f").read_text() == "old"


async def test_weak_etags(call: Call) -> None:
    """If-Match compares strongly, If-None-Match weakly (RFC 9110 section 8.8.3.2)."""
    etag = (await write(call, "json", {})).headers["ETag"]
    assert (await write(call, "json", {"If-Match": f"W/{etag}"})).status == 412
    assert (await write(call, "json", {"If-None-Match": f"W/{etag}"})).status == 412


async def test_of_many_agents_one_wins(app_client: AppClient, work: Path) -> None:
    """All have read the same file and write it at once, in all the ways there are."""
    client = await app_client()
    (work / "f").write_text("old")
    async with client.get("/filesystem/f") as reply:
        headers = {"If-Match": reply.headers["ETag"]}

    async def edit(number: int) -> int:
        body = {"content": str(number)}
        async with client.put("/filesystem/f", json=body, headers=headers) as reply:
            return reply.status

    statuses = await asyncio.gather(*(edit(number) for number in range(20)))
    assert sorted(statuses) == [200] + [412] * 19
    assert (work / "f").read_text() == str(statuses.index(200))


async def test_pseudo_files_have_no_etag(call: Call) -> None:
    """What is read there next may be something else."""
    assert "ETag" not in (await call("GET", "%2Fproc%2Fuptime")).headers
