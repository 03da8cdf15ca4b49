"""Trees over HTTP: how the path may be written, what is listed, written and deleted."""

import asyncio
import json
import os
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.api.files.conftest import AppClient, Call


def absolute(path: Path) -> str:
    return quote(str(path), safe="")


def body(**files: str | None) -> bytes:
    return json.dumps({"files": files}).encode()


async def test_write_list_delete(call: Call, work: Path) -> None:
    """The answer to a write is the listing of the root; a deletion tells the path."""
    target = f"tree/{absolute(work)}%2Fnew"
    answer = await call("PUT", target, data=body(**{"a": "A", "d/b": None}))
    assert answer.status == 200
    listing = answer.json()
    assert (listing["path"], listing["name"]) == (f"{work}/new", "new")
    assert [(file["path"], file["size"]) for file in listing["files"]] == [(f"{work}/new/a", 1)]
    assert listing["subdirectories"] == [{"path": f"{work}/new/d", "name": "d"}]
    assert (await call("GET", target)).json() == listing
    answer = await call("DELETE", target)
    assert answer.status == 422
    assert "directory not empty" in str(answer.error)
    answer = await call("DELETE", f"{target}?recursive=true")
    assert answer.json() == {
        "path": f"{work}/new",
        "message": "Directory deleted successfully",
    }
    assert os.listdir(work) == []


async def test_paths_are_absolute(call: Call, work: Path) -> None:
    """One slash, two, or encoded ones in either case; a slash at the end is shown."""
    plain, encoded = str(work), absolute(work)
    for target in (f"tree{plain}", f"tree/{plain}", f"tree/{encoded}", f"tree{encoded}"):
        assert (await call("GET", target)).json()["path"] == plain
    lower = encoded.replace("%2F", "%2f")
    for target in (f"tree{lower}", f"tree/{lower}"):
        assert (await call("GET", target)).json()["path"] == plain
    assert (await call("GET", f"tree{plain}/")).json()["path"] == f"{plain}/"
    for target in ("tree", "tree/", "tree//", "tree%2F", "%74ree"):
        assert (await call("GET", target)).json()["path"] == "/"
    answer = await call("GET", "tree/~")
    assert (answer.status, "stat /~:" in str(answer.error)) == (404, True)


async def test_tree_is_a_whole_segment(call: Call, work: Path) -> None:
    """Names that begin with it are files like any other (spec/filesystem.md 15, 2)."""
    for name in ("tree-x", "treetmp", "tree.txt"):
        answer = await call("PUT", name, data=b'{"content":"x"}')
        assert answer.json()["path"] == name
    assert (await call("DELETE", "tree-x?recursive=true")).status == 200
    assert sorted(os.listdir(work)) == ["tree.txt", "treetmp"]
    (work / "tree").write_text("T")
    assert (await call("GET", f"{absolute(work)}%2Ftree")).json()["content"] == "T"
    assert (await call("POST", "tree/tmp")).body == b"404 page not found"


async def test_head_tells_the_truth(call: Call, work: Path) -> None:
    """A directory is there, a file and nothing are not."""
    (work / "f").touch()
    for name, status in (("", 200), ("%2Ff", 400), ("%2Fnope", 404), ("%2Ff%2Fx", 422)):
        answer = await call("HEAD", f"tree/{absolute(work)}{name}")
        assert (answer.status, answer.body) == (status, b"")


@pytest.mark.parametrize(
    ("method", "name", "status", "text"),
    [
        ("GET", "nope", 404, "path is not a directory: stat "),
        ("GET", "file", 400, "path is not a directory"),
        ("GET", "file%2Fx", 422, "stat "),
        ("DELETE", "nope", 404, "error deleting directory: stat "),
        ("DELETE", "file", 422, "error deleting directory: path points to a file, not a directory"),
        ("PUT", "file", 422, "error creating root directory: mkdir "),
        ("PUT", ".sandbox-api-1", 422, "reserved"),
        ("GET", ".sandbox-api-1", 404, "path is not a directory: stat "),
    ],
)
async def test_what_is_no_directory(
    call: Call, work: Path, method: str, name: str, status: int, text: str
) -> None:
    """Each has its status and its text."""
    (work / "file").write_text("x")
    answer = await call(method, f"tree/{absolute(work)}%2F{name}", data=body(a=""))
    assert (answer.status, text in str(answer.error)) == (status, True)
    assert (work / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"[", "invalid request body: unexpected EOF"),
        (b"", "invalid request body: EOF"),
        (b'{"files":{"a":1}}', "cannot unmarshal number 1 into field files"),
        (b'{"files":["a"]}', "cannot unmarshal array into field files"),
        (b'{"files":{"a":"1","a":"2"}}', "the key 'a' stands twice"),
        (b'{"files":' + b'{"a":' * 100_000, "nested too deeply"),
    ],
)
async def test_bad_bodies(call: Call, work: Path, data: bytes, text: str) -> None:
    """Nothing is written, and the error says why."""
    answer = await call("PUT", f"tree/{absolute(work)}", data=data)
    assert (answer.status, text in str(answer.error)) == (400, True)
    assert os.listdir(work) == []


async def test_forgiving_bodies(call: Call, work: Path) -> None:
    """Keys of the request in any case, nothing at all, and what no text can hold."""
    target = f"tree/{absolute(work)}%2Fd"
    for data in (b"{}", b"null", b'{"files":null}', b'{"FILES":{"a":"x"}} rest'):
        assert (await call("PUT", target, data=data)).status == 200
    assert (work / "d" / "a").read_text() == "x"
    await call("PUT", target, data=b'{"files":{"\\ud800":"\\ud83d\\ude00 \\udfff"}}')
    assert (work / "d" / "\ufffd").read_text() == "\U0001f600 \ufffd"


async def test_g25_a_key_that_leads_out(call: Call, work: Path) -> None:
    """The error tells the key, and that nothing was written."""
    answer = await call("PUT", f"tree/{absolute(work)}%2Fd", data=body(**{"a": "", "../x": ""}))
    assert answer.status == 422
    assert answer.json() == {
        "error": "error writing file: key '../x': it leads out of the directory",
        "written": [],
        "failed": "../x",
    }
    assert os.listdir(work) == []


async def test_body_has_a_limit(app_client: AppClient, work: Path) -> None:
    """The error names the way around it."""
    client = await app_client(max_tree_bytes=100)
    for data in (body(a="x" * 100), _chunks()):
        async with client.put(f"/filesystem/tree{work}", data=data) as reply:
            assert reply.status == 413
            assert "application/x-tar" in (await reply.json())["error"]
    assert os.listdir(work) == []


async def _chunks() -> object:
    yield b"x" * 200


async def test_read_all(call: Call, work: Path) -> None:
    """What SDKs ask for and rely on (spec/sdk-clients.md 3.1)."""
    (work / "d" / "empty").mkdir(parents=True)
    (work / "d" / "x.py").write_bytes(b"\xff")
    (work / "a.py").write_text("A")
    (work / ".hidden.py").write_text("H")
    target = f"tree/{absolute(work)}?recursive=true&content=true"
    tree = (await call("GET", target)).json()
    assert tree["recursive"] is True
    assert {file["path"]: file["content"] for file in tree["files"]} == {
        f"{work}/.hidden.py": "H",
        f"{work}/a.py": "A",
        f"{work}/d/x.py": "\ufffd",
    }
    assert [each["name"] for each in tree["subdirectories"]] == ["d", "empty"]
    assert tree["unreadable"] == 0
    some = await call("GET", f"{target}&patterns=*.js,%20*.py%20&excludeDirs=d&excludeHidden=true")
    assert [file["name"] for file in some.json()["files"]] == ["a.py"]
    base64 = await call("GET", f"{target}&patterns=x*&encoding=base64")
    assert [file["content"] for file in base64.json()["files"]] == ["/w=="]
    plain = await call("GET", f"tree/{absolute(work)}?recursive=true")
    assert all("content" not in file for file in plain.json()["files"])
    for limit in ("maxFiles=2", "maxBytes=2"):
        assert (await call("GET", f"{target}&{limit}")).status == 422
    for bad in ("maxFiles=x", "maxBytes=-1", "maxFiles=1e3", "encoding=hex"):
        assert (await call("GET", f"{target}&{bad}")).status == 400


async def test_read_all_of_much(call: Call, work: Path) -> None:
    """An answer in many pieces is the same JSON."""
    for number in range(1000):
        (work / f"d{number % 3}").mkdir(exist_ok=True)
        (work / f"d{number % 3}" / f"{number:04}").write_text(str(number) * 200)
    target = f"tree/{absolute(work)}?recursive=true&content=true"
    files = (await call("GET", target)).json()["files"]
    assert sorted(file["content"] for file in files) == sorted(str(n) * 200 for n in range(1000))


async def test_dangerous_deletions(call: Call, work: Path, tmp_path: Path) -> None:
    """G25: what the sandbox needs is refused, and a link to it, unless it is forced."""
    (work / "link").symlink_to(tmp_path)
    for path in (Path("/"), Path("/usr"), work, tmp_path, tmp_path / "home", work / "link"):
        answer = await call("DELETE", f"tree/{absolute(path)}?recursive=true")
        assert (answer.status, "force=true" in str(answer.error)) == (422, True)
    answer = await call("DELETE", f"tree/{absolute(work / 'link')}?recursive=true&force=true")
    assert answer.status == 200
    assert os.listdir(work) == []
    assert "work" in os.listdir(tmp_path)


async def test_others_are_served_meanwhile(app_client: AppClient, work: Path) -> None:
    """A large write does not hold up a small question."""
    client = await app_client()
    files = {f"{number}": "x\u20ac\\" * 2000 for number in range(1500)}
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    async def ask() -> None:
        while not write.done():
            began = loop.time()
            async with client.get("/health") as reply:
                assert reply.status == 200
            waits.append(loop.time() - began)

    write = asyncio.ensure_future(
        client.put(f"/filesystem/tree{work}", data=BytesIO(json.dumps({"files": files}).encode()))
    )
    await ask()
    assert (await write).status == 200
    assert sorted(waits)[len(waits) // 2] < 0.1
