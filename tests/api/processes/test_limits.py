"""`keepAlive`, `timeout` and `maxRuntime` over HTTP: three limits that must not be confused."""

import pytest

from tests.api.processes.conftest import OpenApi, ProcessApi


@pytest.mark.parametrize(
    ("request_", "age_s"),
    [
        ({}, 600),
        ({"timeout": None}, 600),
        ({"timeout": -5}, 600),
        ({"timeout": 0}, None),
        ({"timeout": 30}, 30),
        ({"timeout": 30, "maxRuntime": 2.5}, 2.5),
        ({"timeout": 0, "maxRuntime": 40}, 40),
        ({"keepAlive": False, "timeout": 30}, None),
    ],
)
async def test_the_age_of_a_run(
    api: ProcessApi, request_: dict[str, object], age_s: float | None
) -> None:
    """With keepAlive, `timeout` is the age at which a run is killed: 600 s if nobody says, 0 is
    none; without it, it only bounds the waiting."""
    body: dict[str, object] = {"keepAlive": True, **request_}
    async with api.client.post("/process", json={"command": "true", **body}) as response:
        reply = await response.json()
        assert response.status == 200, reply
    assert reply["keepAlive"] is body["keepAlive"]
    assert api.find(reply["pid"]).spec.run_limit_s == age_s


async def test_keep_alive_bounds_the_wait_too(api: ProcessApi) -> None:
    """At its limit the process is killed and the wait is over: the answer is that of every wait
    that is over."""
    async with api.client.post(
        "/process",
        json={
            "command": "exec sleep 60",
            "name": "k",
            "keepAlive": True,
            "timeout": 1,
            "waitForCompletion": True,
        },
    ) as response:
        reply = await response.json()
    assert response.status == 422
    assert reply.pop("pid")
    assert reply == {"error": "process timed out after 1 seconds", "name": "k"}
    ended = await api.get("/process/k/wait?timeout=5")
    assert (ended["status"], ended["exitCode"]) == ("killed", -1)
    assert (ended["keepAlive"], ended["timedOut"]) == (False, True)


async def test_keep_alive_that_is_not_included(open_api: OpenApi) -> None:
    """400 before anything starts; all else works."""
    api = await open_api(keep_alive_disabled=True)
    reply = await api.start("true", 400, keepAlive=True)
    assert reply["error"] == (
        "keepAlive is not available for this sandbox: it is not included in your current plan"
    )
    assert await api.get("/process") == []
    assert (await api.run("true", keepAlive=False))["status"] == "completed"


async def test_a_run_over_its_time(open_api: OpenApi) -> None:
    """TERM; a trap that exits with 0 does not make it a success. It is told apart from a kill."""
    api = await open_api(stop_grace_s=5)
    reply = await api.run("trap 'echo bye; exit 0' TERM; sleep 60 & wait", maxRuntime=0.3)
    assert (reply["status"], reply["exitCode"], reply["timedOut"]) == ("killed", 0, True)
    assert reply["stdout"] == "bye\n"
    reply = await api.run("exec sleep 60", maxRuntime=0.1, restartOnFailure=True, maxRestarts=3)
    assert (reply["status"], reply["exitCode"], reply["signal"]) == ("killed", -1, "SIGTERM")
    assert reply["restartCount"] == 0


@pytest.mark.parametrize("value", [-1, -0.5, "1", True, [], 1e400])
async def test_a_time_that_is_none(api: ProcessApi, value: object) -> None:
    """400 that names the key."""
    reply = await api.start("true", 400, maxRuntime=value)
    assert reply["error"].startswith("invalid request body: ")
    assert "maxRuntime" in reply["error"] or "Infinity" in reply["error"]


@pytest.mark.parametrize("value", [2**63 - 1, 10_000_000_000])
async def test_a_time_without_an_end(api: ProcessApi, value: int) -> None:
    """The largest numbers are only very long."""
    limits = {"timeout": value, "maxRuntime": value, "keepAlive": True}
    reply = await api.run("exit 3", 200, **limits)
    assert reply["exitCode"] == 3
