"""The failure matrix (spec/filesystem.md 13) and G29: every file route, as the workload user."""

import io
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient

from sandbox_api import app as application
from sandbox_api.core.identity import Identity
from tests.api.files.conftest import AppClient, everything
from tests.core.conftest import let_others_in

Requests = Iterator[tuple[str, str, dict[str, Any]]]

NOBODY = 65534
SHARED_GROUP = 4321

RAW = {"Content-Type": "application/octet-stream"}
TAR = {"Content-Type": "application/x-tar"}
BYTES = {"Accept": "application/octet-stream"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A closed directory, a closed file, a file, a directory that belongs to the workload user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    root = tmp_path / "place"
    (root / "closed").mkdir(parents=True)
    (root / "closed" / "d").mkdir()
    (root / "own" / "d").mkdir(parents=True)
    for name in ("closed/f", "secret", "file", "own/f"):
        (root / name).write_text("root's")
    (root / "secret").chmod(0o600)
    (root / "closed").chmod(0o700)
    for name in ("own", "own/f"):
        os.chown(root / name, NOBODY, NOBODY)
    let_others_in(root)
    root.chmod(0o755)
    return root


@pytest.fixture
async def client(app_client: AppClient, place: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A daemon whose workload user is nobody, in one more group."""
    who = Identity(NOBODY, NOBODY, (NOBODY, SHARED_GROUP), "nobody", str(place / "own"))
    monkeypatch.setattr(application, "resolve_identity", lambda _: who)
    return await app_client(user="nobody", workdir=str(place))


def archive(name: str = "x") -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as packed:
        packed.addfile(tarfile.TarInfo(name))
    return output.getvalue()


def contents(place: Path) -> dict[Path, str]:
    return {path: path.read_text() if path.is_file() else "" for path in everything(place)}


def form() -> FormData:
    body = FormData(default_to_multipart=True)
    body.add_field("file", b"x", filename="f")
    return body


def reads(path: str) -> Requests:
    """Every way to read a path, or what is below it."""
    yield "GET", f"/filesystem/{path}", {}
    yield "GET", f"/filesystem/{path}?limit=1", {}
    yield "GET", f"/filesystem/{path}", {"headers": BYTES}
    yield "HEAD", f"/filesystem/{path}", {}
    yield "GET", f"/filesystem/{path}", {"headers": {"Accept": "application/x-tar"}}


def tree_reads(path: str) -> Requests:
    for query in ("", "?recursive=true&content=true"):
        yield "GET", f"/filesystem/tree/{path}{query}", {}


def writes(path: str) -> Requests:
    """Every way to write a file."""
    yield "PUT", f"/filesystem/{path}", {"json": {"content": "x"}}
    yield "PUT", f"/filesystem/{path}", {"data": form()}
    yield "PUT", f"/filesystem/{path}", {"data": b"x", "headers": RAW}
    yield "PUT", f"/filesystem/{path}?offset=0", {"data": b"x", "headers": RAW}


def directory_writes(path: str) -> Requests:
    """Every way to make a directory, or something below it."""
    yield "PUT", f"/filesystem/{path}", {"json": {"isDirectory": True}}
    yield "PUT", f"/filesystem/{path}/", {"data": archive(), "headers": TAR}
    yield "PUT", f"/filesystem/tree/{path}", {"json": {"files": {"x": "x"}}}


def deletes(path: str) -> Requests:
    for query in ("", "?recursive=true"):
        yield "DELETE", f"/filesystem/{path}{query}", {}


def moves(source: str, destination: str) -> Requests:
    for route in ("/filesystem-copy", "/filesystem-move"):
        for only_new in (False, True):
            body = {"source": source, "destination": destination, "noOverwrite": only_new}
            yield "POST", route, {"json": body}


async def ask(
    client: TestClient, method: str, path: str, options: dict[str, Any]
) -> tuple[int, str]:
    async with client.request(method, path, **options) as reply:
        if reply.status < 400 or method == "HEAD":
            await reply.read()
            return reply.status, ""
        return reply.status, str((await reply.json())["error"])


async def complete(client: TestClient, path: str) -> tuple[int, str]:
    """Upload one part and complete it."""
    prefix = "/filesystem-multipart"
    async with client.post(f"{prefix}/initiate/{path}") as reply:
        assert reply.status == 200
        session = f"{prefix}/{(await reply.json())['uploadId']}"
    async with client.put(f"{session}/part?partNumber=1", data=form()) as reply:
        assert reply.status == 200
        part = await reply.json()
    try:
        return await ask(client, "POST", f"{session}/complete", {"json": {"parts": [part]}})
    finally:
        await client.delete(f"{session}/abort")


def rows(place: str) -> list[tuple[str, Requests, int, str]]:
    """What the matrix says: row, requests, status, and what the text says."""
    closed, denied = f"/{place}/closed", "permission denied"
    return [
        ("missing", reads("none"), 404, "no such file"),
        ("missing", deletes("none"), 404, "not found"),
        ("missing", tree_reads(f"{place}/none"), 404, "path is not a directory"),
        ("missing", deletes(f"tree{place}/none"), 404, "no such file"),
        ("missing", moves("none", "own/x"), 404, "no such file"),
        ("parent is a file", reads("file/x"), 404, "not a directory"),
        ("parent is a file", writes("own/f/x"), 422, "not a directory"),
        ("parent is a file", directory_writes(f"{place}/own/f/x"), 422, "not a directory"),
        ("parent is a file", deletes("file/x"), 422, "not a directory"),
        ("parent is a file", tree_reads(f"{place}/file/x"), 422, "not a directory"),
        ("parent is a file", deletes(f"tree{place}/file/x"), 422, "not a directory"),
        ("parent is a file", moves("own/f", "own/f/x"), 422, "not a directory"),
        ("denied on the object", reads("secret"), 422, denied),
        ("denied on the object", reads("closed"), 422, denied),
        ("denied on the object", writes("secret"), 422, denied),
        ("denied on the object", islice(directory_writes(closed), 1, None), 422, denied),
        ("denied on the object", deletes("secret"), 422, denied),
        ("denied on the object", deletes("closed?recursive=true&x="), 422, denied),
        ("denied on the object", tree_reads(closed), 422, denied),
        ("denied on the object", moves("secret", "own/x"), 422, denied),
        ("denied on the object", moves("own/f", "closed/x"), 422, denied),
        ("denied on a parent", reads("closed/f"), 403, denied),
        ("denied on a parent", reads("closed/none"), 403, denied),
        ("denied on a parent", writes("closed/f"), 422, denied),
        ("denied on a parent", writes("closed/none"), 422, denied),
        ("denied on a parent", directory_writes(f"{closed}/d"), 422, denied),
        ("denied on a parent", deletes("closed/f"), 422, denied),
        ("denied on a parent", tree_reads(f"{closed}/d"), 422, denied),
        ("denied on a parent", deletes(f"tree{closed}/d"), 422, denied),
        ("denied on a parent", moves("closed/f", "own/x"), 422, denied),
        ("denied on a parent", moves("own/f", "closed/d"), 422, denied),
        ("a directory in place of a file", writes("own/d"), 422, "is a directory"),
        ("a file in place of a directory", tree_reads(f"{place}/file"), 400, "not a directory"),
        ("a file in place of a directory", deletes(f"tree{place}/file"), 422, "not a directory"),
        ("a file in place of a directory", directory_writes(f"{place}/own/f"), 422, "director"),
    ]


async def test_g29_every_route_and_every_row(client: TestClient, place: Path) -> None:
    """Each answer is the one of the matrix, with 404 and 403 for its 500; and nothing changed."""
    before = contents(place)
    for row, requests, status, text in rows(str(place)):
        for method, path, options in requests:
            answer = await ask(client, method, path, options)
            assert answer[0] == status, (row, method, path, options, answer)
            assert method == "HEAD" or text in answer[1], (row, method, path, options, answer)
    for path, status, text in (
        ("secret", 403, "failed to create final file: open"),
        ("closed/f", 403, "failed to create final file: open"),
        ("new/x", 403, "failed to create parent directory: mkdir"),
        ("file/x", 422, "failed to create parent directory: mkdir"),
        ("own", 422, "failed to create final file: open"),
    ):
        answer = await complete(client, path)
        assert (answer[0], text in answer[1]) == (status, True), (path, answer)
    assert contents(place) == before


async def test_g29_what_belongs_to_a_group_of_the_user(client: TestClient, place: Path) -> None:
    """Supplementary groups count, in reading and in writing."""
    (place / "shared").mkdir()
    (place / "shared" / "f").write_text("s")
    for name, mode in (("shared", 0o2770), ("shared/f", 0o660)):
        os.chown(place / name, 0, SHARED_GROUP)
        (place / name).chmod(mode)
    for requests in (reads("shared"), reads("shared/f"), tree_reads(f"{place}/shared")):
        for request in requests:
            assert (await ask(client, *request))[0] == 200, request
    for requests in (
        writes("shared/f"),
        writes("shared/new"),
        directory_writes(f"{place}/shared/d"),
        moves("own/f", "shared/copy"),
    ):
        method, path, options = next(requests)
        assert (await ask(client, method, path, options))[0] == 200, path
    assert (await complete(client, "shared/upload"))[0] == 200
    for name in ("new", "d", "copy", "upload"):
        status = (place / "shared" / name).stat()
        assert (status.st_uid, status.st_gid) == (NOBODY, SHARED_GROUP), name
    assert (place / "shared" / "f").stat().st_uid == 0
