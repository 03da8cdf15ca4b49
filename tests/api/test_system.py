"""Welcome and health."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api import __version__
from sandbox_api.api.system import go_duration

AppClient = Callable[..., Awaitable[TestClient]]

HEALTH_KEYS = (
    *("status", "version", "gitCommit", "buildTime", "goVersion", "os", "arch"),
    *("uptime", "uptimeSeconds", "upgradeCount", "startedAt", "lastUpgrade"),
)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_the_root_welcomes(app_client: AppClient, method: str) -> None:
    """Five methods, and whatever body comes with them is ignored."""
    answer = await (await app_client()).request(method, "/", data=b"not json")
    assert answer.status == 200
    assert (await answer.json())["message"] == "Welcome to your Blaxel Sandbox"


async def test_health_has_every_documented_key_in_order(app_client: AppClient) -> None:
    """The models of the official SDKs need them all."""
    answer = await (await app_client(upgrade_count=3)).get("/health")
    health = await answer.json()
    assert tuple(health) == HEALTH_KEYS
    assert (health["status"], health["version"], health["upgradeCount"]) == ("ok", __version__, 3)
    assert health["lastUpgrade"] == {"status": "idle", "step": "none", "version": ""}
    assert health["startedAt"].endswith("Z")


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_head_answers_without_a_body(app_client: AppClient, path: str) -> None:
    """HEAD tells that the route is there."""
    answer = await (await app_client()).head(path)
    assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (1, "1s"), (59.6, "1m0s"), (231, "3m51s"), (5400, "1h30m0s"), (90061, "25h1m1s")],
)
def test_uptime_is_told_as_clients_know_it(seconds: float, text: str) -> None:
    """The form of Go durations, in whole seconds."""
    assert go_duration(seconds) == text
