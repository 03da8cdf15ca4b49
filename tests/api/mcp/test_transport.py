"""MCP as bytes over HTTP: headers, versions, batches, sessions, errors (spec/mcp-codegen.md 1)."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.mcp.conftest import OpenClient

Json = dict[str, Any]

BOTH = "application/json, text/event-stream"
HEADERS = {"Content-Type": "application/json", "Accept": BOTH}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def message(method: str, number: object = 1, **params: object) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def execute(command: str, number: object = 1, **more: object) -> Json:
    arguments = {"command": command, "waitForCompletion": True}
    return message("tools/call", number, name="processExecute", arguments=arguments, **more)


async def until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Wait until a look gives what is wanted."""
    async with asyncio.timeout(10):
        while await look() != wanted:  # noqa: ASYNC110 - the other side is a server
            await asyncio.sleep(0.01)


async def initialize(
    client: TestClient, version: object = "2025-06-18"
) -> tuple[ClientResponse, Json]:
    response = await client.post(
        "/mcp", json=message("initialize", protocolVersion=version), headers=HEADERS
    )
    return response, await response.json()


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        (7, "2025-11-25"),
    ],
)
async def test_initialize_agrees_on_a_version(
    app_client: OpenClient, asked: object, agreed: str
) -> None:
    """A client of any age is served."""
    response, answer = await initialize(await app_client(), asked)
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Mcp-Session-Id"]
    assert answer["result"]["protocolVersion"] == agreed
    assert answer["result"]["serverInfo"]["name"] == "Sandbox API Server"
    assert answer["result"]["capabilities"]["resources"]["subscribe"] is True


async def test_no_session_is_needed(app_client: OpenClient) -> None:
    """Without initialize, and with a session's id that nobody knows any more, all is served."""
    client = await app_client()
    for headers in (HEADERS, {**HEADERS, "Mcp-Session-Id": "of a daemon before"}):
        response = await client.post("/mcp", json=message("tools/list"), headers=headers)
        assert response.status == 200
        assert "Mcp-Session-Id" not in response.headers
        assert len((await response.json())["result"]["tools"]) > 17


@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ({"Accept": "application/json"}, PING, 400, "Accept must contain both"),
        ({"Content-Type": "text/plain"}, PING, 415, "Content-Type must be 'application/json'"),
        ({"Mcp-Protocol-Version": "2020-01-01"}, PING, 400, "Unsupported protocol version"),
        ({"Last-Event-ID": "1"}, PING, 400, "Last-Event-ID"),
        ({"Mcp-Protocol-Version": "2025-06-18"}, [PING], 400, "batching is not supported"),
        ({}, {"id": 1, "method": "ping"}, 400, "invalid message version tag"),
        ({}, {"jsonrpc": "2.0", "method": "ping"}, 400, 'missing id for "ping"'),
        ({}, {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}, 400, 'missing required "params"'),
        ({}, {"jsonrpc": "2.0", "id": True, "method": "ping"}, 400, "id must be"),
        ({}, '{"jsonrpc": "2.0", "id": 1e400, "method": "ping"}', 400, "id must be"),
        ({}, {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, 400, "params must be"),
        ({}, [], 400, "a batch holds"),
        ({}, 7, 400, "malformed payload"),
    ],
)
async def test_bad_requests_are_json_rpc_errors(
    app_client: OpenClient, headers: dict[str, str], body: object, status: int, text: str
) -> None:
    """Whoever sends something wrong is told what, in the form that MCP clients read."""
    client = await app_client()
    data = body if isinstance(body, str) else json.dumps(body)
    response = await client.post("/mcp", data=data, headers={**HEADERS, **headers})
    answer = await response.json(content_type=None)
    assert response.status == status
    assert text in answer["error"]["message"]
    assert answer["error"]["code"] < 0


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"jsonrpc":"2.0"} x'),
        *(
            b'{"a":' + b"[" * depth + b'"\\ud800"' + b"]" * depth + b"}"
            for depth in (300, 500, 900)
        ),
    ],
)
async def test_g27_bodies_that_are_no_json(app_client: OpenClient, body: bytes) -> None:
    """They are refused as a parse error, and the daemon goes on."""
    client = await app_client()
    response = await client.post("/mcp", data=body, headers=HEADERS)
    assert response.status == 400
    assert (await response.json(content_type=None))["error"]["code"] in {-32700, -32600}
    assert (await client.post("/mcp", json=PING, headers=HEADERS)).status == 200


async def test_a_body_over_4_mib_is_refused(app_client: OpenClient) -> None:
    """The limit is that of the reference, and is named."""
    client = await app_client()
    body = io.BytesIO(b" " * (4 << 20) + b"{}")
    response = await client.post("/mcp", data=body, headers=HEADERS)
    assert response.status == 413
    assert "4194304" in (await response.json(content_type=None))["error"]["message"]


async def test_an_unknown_method_is_a_json_rpc_error(app_client: OpenClient) -> None:
    """The reference answers in plain text, which clients cannot match to their request."""
    client = await app_client()
    response = await client.post("/mcp", json=message("nope/x", "abc"), headers=HEADERS)
    assert response.status == 200
    answer = await response.json()
    assert (answer["id"], answer["error"]["code"]) == ("abc", -32601)


async def test_notifications_and_replies_are_accepted(app_client: OpenClient) -> None:
    """They want no answer."""
    client = await app_client()
    for body in (
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}},
        {"jsonrpc": "2.0", "id": 1, "result": {}},
    ):
        response = await client.post("/mcp", json=body, headers=HEADERS)
        assert (response.status, await response.read()) == (202, b"")


async def test_a_batch_is_answered_as_one(app_client: OpenClient) -> None:
    """Until 2025-03-26 several requests may come at once; a broken one spoils no other."""
    client = await app_client()
    batch = [message("ping", 1), message("ping", "b"), {"jsonrpc": "2.0", "method": "x", "id": {}}]
    response = await client.post("/mcp", json=batch, headers=HEADERS)
    answers = await response.json()
    assert [answer["id"] for answer in answers] == [1, "b", None]
    assert answers[0]["result"] == {}


async def test_other_methods_of_http(app_client: OpenClient) -> None:
    """GET without a session is what clients know as 'no stream here'."""
    client = await app_client()
    response = await client.get("/mcp", headers={"Accept": "text/event-stream"})
    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert "SSE streaming not supported" in (await response.json())["error"]
    for method in ("DELETE", "PUT", "HEAD"):
        assert (await client.request(method, "/mcp")).status == 404


async def test_a_session_ends(app_client: OpenClient) -> None:
    """Its id means nothing any more, and its stream is over."""
    client = await app_client()
    response, _ = await initialize(client)
    headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], "Accept": BOTH}
    stream = await client.get("/mcp", headers=headers)
    assert stream.status == 200
    assert (await client.delete("/mcp", headers=headers)).status == 204
    assert b"keepalive" in await stream.read()
    assert (await client.get("/mcp", headers=headers)).status == 405


async def test_token_and_origin_hold_here_too(app_client: OpenClient) -> None:
    """A page that somebody opens must not run commands (spec/mcp-codegen.md 8, 2)."""
    client = await app_client(token="secret")
    assert (await client.post("/mcp", json=PING, headers=HEADERS)).status == 401
    good = {**HEADERS, "Authorization": "Bearer secret"}
    assert (await client.post("/mcp", json=PING, headers=good)).status == 200
    foreign = {**good, "Origin": "https://evil.example"}
    assert (await client.post("/mcp", json=PING, headers=foreign)).status == 403
    foreign = {**good, "Host": "evil.example"}
    assert (await client.post("/mcp", json=PING, headers=foreign)).status == 403


async def test_progress_and_log_come_while_a_command_runs(app_client: OpenClient) -> None:
    """Who sends a progress token sees each line as it comes, then the result."""
    client = await app_client()
    body = execute("echo one; sleep 0.2; echo two >&2", _meta={"progressToken": "t"})
    response = await client.post("/mcp", json=body, headers=HEADERS)
    assert response.headers["Content-Type"] == "text/event-stream"
    events = (await response.text()).split("\n\n")
    told = [json.loads(event.partition("data: ")[2]) for event in events if "data: " in event]
    logs = [one["params"]["data"] for one in told if one.get("method") == "notifications/message"]
    progress = [one["params"] for one in told if one.get("method") == "notifications/progress"]
    assert "".join(logs) == "stdout:one\nstderr:two\n"
    assert {one["progressToken"] for one in progress} == {"t"}
    assert [one["progress"] for one in progress] == sorted({one["progress"] for one in progress})
    assert told[-1]["result"]["structuredContent"]["logs"] == "one\ntwo\n"


async def test_a_client_cancels_its_call(app_client: OpenClient) -> None:
    """The command that it waits for is stopped; the request is answered without a result."""
    client = await app_client()
    response, _ = await initialize(client)
    headers = {**HEADERS, "Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
    body = execute("sleep 60", 77)
    body["params"]["arguments"]["name"] = "long"
    waiting = asyncio.create_task(client.post("/mcp", json=body, headers=headers))

    async def status(name: str) -> object:
        return (await (await client.get(f"/process/{name}")).json()).get("status")

    await until(lambda: status("long"), "running")
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}}
    assert (await client.post("/mcp", json=cancel, headers=headers)).status == 202
    answered = await asyncio.wait_for(waiting, 10)
    assert (answered.status, await answered.read()) == (202, b"")
    assert await status("long") == "stopped"


async def test_a_client_that_leaves_stops_nothing(
    app_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A lost connection is no wish: the command goes on."""
    caplog.set_level("INFO")
    client = await app_client()
    body = execute("sleep 60")
    body["params"]["arguments"]["name"] = "kept"
    waiting = asyncio.create_task(client.post("/mcp", json=body, headers=HEADERS))

    async def found() -> object:
        return (await client.get("/process/kept")).status

    async def noticed() -> object:
        return "POST /mcp 499" in caplog.text

    await until(found, 200)
    waiting.cancel()
    await until(noticed, True)
    assert (await (await client.get("/process/kept")).json())["status"] == "running"
    await client.delete("/process/kept/kill")


def modern(method: str, **params: object) -> Json:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    return message(method, 1, _meta=meta, **params)


async def test_2026_discovers(app_client: OpenClient) -> None:
    """The newest version has no initialize."""
    client = await app_client()
    headers = {**HEADERS, "Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "server/discover"}
    response = await client.post("/mcp", json=modern("server/discover"), headers=headers)
    result = (await response.json())["result"]
    assert result["resultType"] == "complete"
    assert "2024-11-05" in result["supportedVersions"]
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "Sandbox API Server"


@pytest.mark.parametrize(
    ("headers", "method", "status", "code"),
    [
        ({"Mcp-Protocol-Version": "2026-07-28"}, "tools/list", 400, -32020),
        ({"Mcp-Method": "tools/list"}, "tools/list", 400, -32020),
        (
            {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"},
            "tools/call",
            400,
            -32020,
        ),
        ({"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "ping"}, "ping", 404, -32601),
        ({"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "no/x"}, "no/x", 404, -32601),
    ],
)
async def test_2026_headers_are_held_against_the_body(
    app_client: OpenClient, headers: dict[str, str], method: str, status: int, code: int
) -> None:
    """Proxies decide by headers, so what they say must be true."""
    client = await app_client()
    body = modern(method, name="processesList")
    response = await client.post("/mcp", json=body, headers={**HEADERS, **headers})
    assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_2026_a_future_version_is_refused_with_those_there_are(
    app_client: OpenClient,
) -> None:
    """So a newer client finds a version that both speak."""
    client = await app_client()
    body = modern("tools/list")
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01"
    headers = {**HEADERS, "Mcp-Protocol-Version": "2031-01-01", "Mcp-Method": "tools/list"}
    response = await client.post("/mcp", json=body, headers=headers)
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, -32022)
    assert "2025-11-25" in error["data"]["supported"]


async def test_g27_a_tool_that_breaks_is_our_fault_and_only_its_own(
    app_client: OpenClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reference's daemon dies of it (spec/mcp-codegen.md 8, 1)."""
    client = await app_client()
    await client.post("/mcp", json=PING, headers=HEADERS)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sandbox_api.api.mcp.files.read_directory", broken)
    call = message("tools/call", name="fsListDirectory", arguments={"path": ""})
    response = await client.post("/mcp", json=call, headers=HEADERS)
    error = (await response.json())["error"]
    assert (error["code"], error["message"]) == (-32603, "internal error in fsListDirectory")
    assert "ZeroDivisionError" in caplog.text
    assert (await client.post("/mcp", json=PING, headers=HEADERS)).status == 200


async def test_arguments_are_not_logged(
    app_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Contents and variables may be secrets."""
    caplog.set_level("DEBUG")
    client = await app_client()
    for arguments in ({"path": "a", "content": "SECRET"}, {"path": "a", "content": ["SECRET"]}):
        call = message("tools/call", name="fsWriteFile", arguments=arguments)
        await client.post("/mcp", json=call, headers=HEADERS)
    assert "Tool call completed: fsWriteFile" in caplog.text
    assert "Tool call failed: fsWriteFile" in caplog.text
    assert "SECRET" not in caplog.text


async def test_2026_logs_come_to_who_asks(app_client: OpenClient) -> None:
    """Progress alone is no wish for them."""
    client = await app_client()
    headers = {
        **HEADERS,
        "Mcp-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "processExecute",
    }
    told = []
    for level in ({}, {"io.modelcontextprotocol/logLevel": "info"}):
        arguments = {"command": "echo hi", "waitForCompletion": True}
        body = modern("tools/call", name="processExecute", arguments=arguments)
        body["params"]["_meta"] |= {"progressToken": 1, **level}
        response = await client.post("/mcp", json=body, headers=headers)
        told.append("notifications/message" in await response.text())
    assert told == [False, True]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
METHODS = st.sampled_from(
    [
        *("initialize", "tools/call", "tools/list", "resources/read", "resources/list", "ping"),
        *("resources/subscribe", "logging/setLevel", "notifications/cancelled", "server/discover"),
    ]
)


async def test_g27_any_message_is_answered(app_client: OpenClient) -> None:
    """Whatever a message holds, its answer is no 5xx and the next one is answered."""
    client = await app_client()

    async def send(body: object) -> None:
        response = await client.post("/mcp", data=json.dumps(body), headers=HEADERS)
        assert response.status < 500, body
        text = await response.text()
        assert "internal error" not in text, (body, text)

    loop = asyncio.get_running_loop()

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.fixed_dictionaries(
            {"jsonrpc": st.just("2.0"), "method": METHODS | st.text(max_size=5)},
            optional={"id": JSON, "params": JSON | st.fixed_dictionaries({"uri": st.text()})},
        )
        | JSON
    )
    def run(body: object) -> None:
        asyncio.run_coroutine_threadsafe(send(body), loop).result(30)

    await asyncio.to_thread(run)
