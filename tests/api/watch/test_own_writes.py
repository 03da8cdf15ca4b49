"""What a watch tells of the daemon's own writes, whichever route they come from."""

import io
import tarfile
from pathlib import Path

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient

from tests.api.watch.conftest import Json, Lines, Watch


async def told(lines: Lines, work: Path) -> list[str]:
    """What has come so far, but for changes of attributes."""
    (work / "end").mkdir()
    events = await lines.until("end")
    (work / "end").rmdir()
    assert [e for e in events if ".sandbox-api-" in str(e)] == []
    await lines.until("end")
    return [f"{e['op']} {_relative(e, work)}" for e in events[:-1] if e["op"] != "CHMOD"]


def _relative(event: Json, work: Path) -> str:
    return f"{event['path']}/{event['name']}".removeprefix(f"{work}/")


async def put(client: TestClient, target: str, **body: object) -> None:
    async with client.put(f"/filesystem/{target}", **body) as answer:  # type: ignore[arg-type]
        assert answer.status in {200, 201}, await answer.text()


@pytest.mark.parametrize("target", ["", "**"])
async def test_files(watch: Watch, client: TestClient, work: Path, target: str) -> None:
    """JSON, raw bytes and forms: CREATE and WRITE of a new file, WRITE of an existing one."""
    lines = await watch(target)
    for _ in range(2):
        await put(client, "f", json={"content": "x"})
        form = FormData()
        form.add_field("file", io.BytesIO(b"y"), filename="y")
        await put(client, "g", data=form)
    assert await told(lines, work) == [
        *("CREATE f", "WRITE f", "CREATE g", "WRITE g"),
        *("WRITE f", "WRITE g"),
    ]


async def test_trees(watch: Watch, client: TestClient, work: Path) -> None:
    """Every file of a tree, after its directory; then each is written."""
    lines = await watch("**")
    files = {"files": {"a": "1", "d/b": "2"}}
    await put(client, f"tree{work}/t", json=files)
    created = [line for line in await told(lines, work) if line.startswith("CREATE")]
    assert sorted(created) == ["CREATE t", "CREATE t/a", "CREATE t/d", "CREATE t/d/b"]
    assert created[0] == "CREATE t"
    assert created.index("CREATE t/d") < created.index("CREATE t/d/b")
    await put(client, f"tree{work}/t", json=files)
    assert await told(lines, work) == ["WRITE t/a", "WRITE t/d/b"]


@pytest.mark.parametrize("target", ["in", "**"])
async def test_multipart(watch: Watch, client: TestClient, work: Path, target: str) -> None:
    """Completing is one rename, from wherever the parts lie; of several parts, too."""
    (work / "in").mkdir()
    lines = await watch(target)
    for path in ("in/f", "in/f"):
        await upload(client, path)
    assert await told(lines, work / "in" if target == "in" else work) == [
        f"CREATE {'' if target == 'in' else 'in/'}f",
        f"WRITE {'' if target == 'in' else 'in/'}f",
        f"WRITE {'' if target == 'in' else 'in/'}f",
    ]


async def upload(client: TestClient, path: str) -> None:
    async with client.post(f"/filesystem-multipart/initiate/{path}") as answer:
        base = f"/filesystem-multipart/{(await answer.json())['uploadId']}"
    parts = []
    for number in (1, 2):
        form = FormData()
        form.add_field("file", io.BytesIO(b"x" * 10), filename="part")
        async with client.put(f"{base}/part?partNumber={number}", data=form) as answer:
            parts.append(await answer.json())
    async with client.post(f"{base}/complete", json={"parts": parts}) as answer:
        assert answer.status == 200, await answer.text()


async def test_resumed_uploads(watch: Watch, client: TestClient, work: Path) -> None:
    """Bytes that come in two requests are one write."""
    lines = await watch("**")
    for _ in range(2):
        for span in ("0-1/4", "2-3/4"):
            headers = {
                "Content-Range": f"bytes {span}",
                "Content-Type": "application/octet-stream",
            }
            async with client.put("/filesystem/f", data=b"xx", headers=headers) as answer:
                assert answer.status in {200, 202, 308}, await answer.text()
    assert await told(lines, work) == ["CREATE f", "WRITE f", "WRITE f"]


async def test_copies_and_moves(watch: Watch, client: TestClient, work: Path) -> None:
    """A copy is a write; a move is a rename, as that of any program."""
    (work / "from").write_text("x")
    lines = await watch("**")
    for path, body in (
        ("copy", {"source": "from", "destination": "to"}),
        ("copy", {"source": "from", "destination": "to"}),
        ("move", {"source": "from", "destination": "moved"}),
    ):
        async with client.post(f"/filesystem-{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
    assert await told(lines, work) == [
        *("CREATE to", "WRITE to", "WRITE to"),
        *("RENAME from", "CREATE moved"),
    ]


async def test_archives(watch: Watch, client: TestClient, work: Path) -> None:
    """Members of an archive, links among them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("d/f")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("d/l")
        link.type, link.linkname = tarfile.SYMTYPE, "f"
        tar.addfile(link)
    headers = {"Content-Type": "application/x-tar"}
    (work / "d").mkdir()
    lines = await watch("d")
    for _ in range(2):
        await put(client, "", data=archive.getvalue(), headers=headers)
    assert await told(lines, work / "d") == [
        *("CREATE f", "WRITE f", "CREATE l", "WRITE l"),
        *("WRITE f", "WRITE l"),
    ]
