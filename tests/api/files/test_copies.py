"""Copies and moves over HTTP, as SDKs ask for them."""

import os
from pathlib import Path

import pytest

from tests.api.files.conftest import AppClient


async def test_copy_and_move(app_client: AppClient, work: Path) -> None:
    """Relative paths, absolute ones and `~`; the answer tells where it is now."""
    client = await app_client()
    (work / "d").mkdir()
    (work / "d" / "f").write_text("F")
    request = {"source": "d", "destination": "~/new/e"}
    async with client.post("/filesystem-copy", json=request) as reply:
        assert reply.status == 200
        assert await reply.json() == {
            "message": "Files copied",
            **request,
            "path": f"{work.parent}/home/new/e",
        }
    request = {"source": f"{work.parent}/home/new/e/f", "destination": str(work)}
    async with client.post("/filesystem-move", json=request) as reply:
        assert (await reply.json())["message"] == "Files moved"
    assert sorted(os.listdir(work)) == ["d", "f"]
    assert os.listdir(work.parent / "home" / "new" / "e") == []


@pytest.mark.parametrize("route", ["/filesystem-copy", "/filesystem-move"])
async def test_no_overwrite(app_client: AppClient, work: Path, route: str) -> None:
    """The conflict has the code by which SDKs know it."""
    client = await app_client()
    (work / "a").write_text("A")
    (work / "b").write_text("B")
    request = {"source": "a", "destination": "b", "noOverwrite": True}
    async with client.post(route, json=request) as reply:
        assert reply.status == 409
        answer = await reply.json()
        assert answer["code"] == "FILE_ALREADY_EXISTS"
        assert answer["error"].endswith("destination b: open " + str(work / "b") + ": file exists")
    assert (work / "b").read_text() == "B"
    async with client.post(route, json={**request, "noOverwrite": False}) as reply:
        assert reply.status == 200
    assert (work / "b").read_text() == "A"


@pytest.mark.parametrize("route", ["/filesystem-copy", "/filesystem-move"])
@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        ({"source": "nope", "destination": "b"}, 404),
        ({"source": "", "destination": "b"}, 400),
        ({"source": "a"}, 400),
        ({"source": 1, "destination": "b"}, 400),
        ({"source": "a\0", "destination": "b"}, 400),
        ({"source": "a", "destination": "a"}, 422),
    ],
)
async def test_bad_requests(
    app_client: AppClient, work: Path, route: str, request_body: object, status: int
) -> None:
    """Each is a JSON error, so that SDKs do not take it for a missing route."""
    (work / "a").touch()
    client = await app_client()
    async with client.post(route, json=request_body) as reply:
        assert reply.status == status
        assert (await reply.json())["error"]


async def test_g25_move_of_home(app_client: AppClient, work: Path) -> None:
    """It is refused unless it is forced."""
    client = await app_client()
    request = {"source": "~", "destination": "moved"}
    async with client.post("/filesystem-move", json=request) as reply:
        assert reply.status == 422
        assert "force=true" in (await reply.json())["error"]
    async with client.post("/filesystem-move?force=true", json=request) as reply:
        assert reply.status == 200
    assert os.listdir(work) == ["moved"]


async def test_archive_status(app_client: AppClient) -> None:
    """The sandbox is active; the rest of that family does not exist."""
    client = await app_client()
    async with client.get("/archive/status") as reply:
        assert await reply.json() == {"state": "active"}
    for name in ("export", "resume"):
        async with client.post(f"/archive/{name}") as reply:
            assert (reply.status, await reply.text()) == (404, "404 page not found")
