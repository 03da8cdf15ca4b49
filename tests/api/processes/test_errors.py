"""What is refused, and how it is told: the tables of spec/process.md 1, 2 and 7."""

import asyncio
import os
from typing import Any

import pytest

from tests.api.processes.conftest import OpenApi, ProcessApi

CANNOT = "failed to start process: could not"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "EOF"),
        ("{", "unexpected EOF"),
        ('{"command": "x", bad}', "expecting property name"),
        ("[]", "cannot unmarshal array"),
        ('"x"', "cannot unmarshal string"),
        ("null", "'Command' failed on the 'required' tag"),
        ("{}", "'Command' failed on the 'required' tag"),
        ('{"command": ""}', "'Command' failed on the 'required' tag"),
        ('{"command": null}', "'Command' failed on the 'required' tag"),
        ('{"command": 5}', "field command"),
        ('{"command": "x", "name": []}', "field name"),
        ('{"command": "x", "env": {"A": 1}}', "field env"),
        ('{"command": "x", "env": ["A=1"]}', "field env"),
        ('{"command": "x", "timeout": "5"}', "field timeout"),
        ('{"command": "x", "timeout": 1.5}', "field timeout"),
        ('{"command": "x", "timeout": 1.0}', "field timeout"),
        ('{"command": "x", "timeout": 1e3}', "field timeout"),
        ('{"command": "x", "timeout": 9223372036854775808}', "field timeout"),
        ('{"command": "x", "maxRestarts": true}', "field maxRestarts"),
        ('{"command": "x", "waitForCompletion": "yes"}', "field waitForCompletion"),
        ('{"command": "x", "waitForPorts": [80, "x"]}', "field waitForPorts"),
        ('{"command": "x", "waitForPorts": 80}', "field waitForPorts"),
        ('{"command": "x", "keepAlive": 1}', "field keepAlive"),
        ('{"command": "x", "timeout": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "invalid request body: "),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_g27_bodies_that_are_refused(
    api: ProcessApi, accept: str, body: str, text: str
) -> None:
    """400 with the stable prefix and what is wrong, as JSON also where a stream was asked for."""
    async with api.client.post("/process", data=body, headers={"Accept": accept}) as response:
        assert response.status == 400
        assert response.content_type == "application/json"
        error = (await response.json())["error"]
    assert error.startswith("invalid request body: ")
    assert text.lower() in error.lower()


async def test_bodies_that_are_forgiven(api: ProcessApi) -> None:
    """Keys in any case, unknown keys, nulls, bytes after the value, any Content-Type."""
    keys = '"COMMAND": "echo hi", "waitforcompletion": true, "name": null, "cwd": "/"'
    body = f'{{{keys}, "timeout": -3}}}}x'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with api.client.post("/process", data=body, headers=headers) as response:
        assert response.status == 200
        assert (await response.json())["stdout"] == "hi\n"


@pytest.mark.parametrize(
    ("status", "request_", "text"),
    [
        (400, {"workingDir": "~/x"}, "home directory not found"),
        (400, {"workingDir": "a\0b"}, "NUL"),
        (400, {"name": "n" * 256}, "invalid process name: at most 255 bytes"),
        (400, {"name": "a\0b"}, "invalid process name"),
        (400, {"env": {"": "x"}}, "invalid env name ''"),
        (
            422,
            {"workingDir": "/nope"},
            f"{CANNOT} execute command 'pwd' because folder '/nope' does not exist",
        ),
        (
            422,
            {"workingDir": "/etc/passwd"},
            f"{CANNOT} execute command 'pwd' because '/etc/passwd' is not a directory",
        ),
        (422, {"env": {"A": "\0"}}, "failed to start process: environment variable contains NUL"),
        (422, {"env": {"A": "x" * 200_000}}, "failed to start process: fork/exec "),
        (422, {"command": "a\0b"}, "failed to start process: invalid argument"),
        (422, {"command": "x" * 200_000}, "argument list too long"),
    ],
)
async def test_starts_that_are_refused(
    open_api: OpenApi, status: int, request_: dict[str, Any], text: str
) -> None:
    """Each row of the table in spec/process.md 2; nothing is left in the list."""
    api = await open_api(home="")
    error = (await api.run(**{"command": "pwd", "status": status, **request_}))["error"]
    assert text in error
    assert await api.get("/process") == []


async def test_a_shell_that_is_not_there(open_api: OpenApi) -> None:
    """The text names what to set."""
    api = await open_api(launch_environment={"PATH": os.environ["PATH"], "SHELL": "nosh"})
    error = (await api.run("true", 422))["error"]
    assert error.startswith('failed to start process: exec: "nosh": executable file not found')
    assert "SHELL" in error


async def test_a_name_in_use(api: ProcessApi) -> None:
    """400, until the process has ended; numbers too (E7, Q18)."""
    for name in ("dup", "123"):
        await api.start("sleep 60", name=name)
        error = (await api.start("true", 400, name=name))["error"]
        assert error == f"process with name '{name}' already exists and is running"
        await api.delete(f"/process/{name}/kill")
        await api.run("true", name=name)


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/process/nope", "process not found"),
        ("GET", "/process/nope/logs", "process with PID nope not found"),
        ("GET", "/process/nope/logs/stream", "process with Identifier nope not found"),
        ("GET", "/process/999999/wait", "process not found"),
        ("DELETE", "/process/nope", "process with Identifier nope not found"),
        ("DELETE", "/process/a/b", "process with Identifier a/b not found"),
        ("DELETE", "/process/nope/kill", "nope"),
    ],
)
async def test_what_is_unknown(api: ProcessApi, method: str, path: str, text: str) -> None:
    """404 as JSON, the stream too, before any of its headers (Q14)."""
    async with api.client.request(method, path) as response:
        assert response.status == 404
        assert response.content_type == "application/json"
        assert text in (await response.json())["error"]


@pytest.mark.parametrize("path", ["", "/logs", "/logs/stream"])
async def test_g26_head_tells_whether_it_exists(api: ProcessApi, path: str) -> None:
    """200 or 404 at once, also for the stream of a process that runs."""
    await api.start("exec sleep 60", name="h")
    async with asyncio.timeout(2), api.client.head(f"/process/h{path}") as response:
        assert response.status == 200
    async with api.client.head(f"/process/nope{path}") as response:
        assert response.status == 404
    async with api.client.head("/process") as response:
        assert response.status == 200
    await api.delete("/process/h/kill")
