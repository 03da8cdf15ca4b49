"""The official clients list and call every tool; results fit their output schemas."""

import asyncio
import json
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent

from tests.api.mcp.conftest import Connect, OpenClient
from tests.providing import providing
from tests.serving import free_port, serve

REFERENCE = frozenset(
    {
        *(
            "processesList",
            "processExecute",
            "processGet",
            "processGetLogs",
            "processStop",
            "processKill",
        ),
        *(
            "fsGetWorkingDirectory",
            "fsListDirectory",
            "fsReadFile",
            "fsWriteFile",
            "fsEditFile",
            "fsDeleteFileOrDirectory",
        ),
        *(
            "codegenFileSearch",
            "codegenCodebaseSearch",
            "codegenGrepSearch",
            "codegenReadFileRange",
            "codegenListDir",
        ),
    }
)
OURS = frozenset({"fsFind", "fsSearch", "processWriteStdin", "processWait", "portsList"})
WITH_KEY = frozenset({"codegenEditFile", "codegenReapply", "codegenParallelApply", "codegenRerank"})

STEPS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("fsGetWorkingDirectory", {}, "work"),
    ("fsWriteFile", {"path": "src/a.py", "content": "def best():\n    pass\n"}, "successfully"),
    ("fsWriteFile", {"path": "empty", "isDirectory": True}, "Directory created"),
    ("fsListDirectory", {"path": ""}, "src"),
    ("fsReadFile", {"path": "src/a.py"}, "def best"),
    ("fsEditFile", {"path": "src/a.py", "oldString": "pass", "newString": "return 1"}, "1"),
    ("fsFind", {"path": "", "patterns": ["*.py"]}, "src/a.py"),
    ("fsSearch", {"path": "", "query": "srca"}, "src/a.py"),
    ("codegenFileSearch", {"query": "a.py"}, "src/a.py"),
    ("codegenGrepSearch", {"query": "return \\d", "includePattern": "*.py"}, "return 1"),
    ("codegenCodebaseSearch", {"query": "which function is best"}, "def best"),
    (
        "codegenReadFileRange",
        {"targetFile": "src/a.py", "startLineOneIndexed": 2, "endLineOneIndexedInclusive": 2},
        "return 1",
    ),
    ("codegenListDir", {"relativeWorkspacePath": "src"}, "a.py"),
    (
        "processExecute",
        {"command": "echo hi; exit 3", "name": "three", "waitForCompletion": True},
        '"exitCode":3',
    ),
    ("processGet", {"identifier": "three"}, "failed"),
    ("processGetLogs", {"identifier": "three"}, "hi"),
    ("processExecute", {"command": "cat", "name": "cat", "stdin": True}, "running"),
    ("processWriteStdin", {"identifier": "cat", "data": "x\n", "close": True}, "closed"),
    ("processWait", {"identifier": "cat", "timeout": 10}, "completed"),
    ("processExecute", {"command": "sleep 60", "name": "one"}, "running"),
    ("processStop", {"identifier": "one"}, "stopped"),
    ("processExecute", {"command": "sleep 60", "name": "two"}, "running"),
    ("processKill", {"identifier": "two"}, "killed"),
    ("processesList", {}, "three"),
    (
        "codegenEditFile",
        {"targetFile": "src/a.py", "instructions": "I add", "codeEdit": "# new"},
        "Successfully applied edit",
    ),
    ("codegenReapply", {"targetFile": "src/a.py"}, "again"),
    (
        "codegenParallelApply",
        {
            "editPlan": "# more",
            "editRegions": [
                {"relativeWorkspacePath": "src/a.py", "startLine": 1, "endLine": 1},
                {"relativeWorkspacePath": "src/a.py", "startLine": 3, "endLine": 3},
            ],
        },
        "2 regions in 1 files",
    ),
    ("codegenRerank", {"path": "src", "query": "q", "filePattern": "\\.py$"}, "Found 1 relevant"),
    ("fsDeleteFileOrDirectory", {"path": "src", "recursive": True}, "Directory deleted"),
)


def shown(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def value(result: CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    return result.structured_content


async def ports_step(client: Client) -> None:
    port = free_port()
    arguments = {"command": f"exec {serve(port)}", "name": "server", "waitForPorts": [port]}
    started = await client.call_tool("processExecute", arguments)
    assert not started.is_error, started
    found = await client.call_tool("portsList", {"identifier": "server"})
    assert [one["localPort"] for one in value(found)["ports"]] == [port]
    everything = await client.call_tool("portsList", {})
    assert port in [one["localPort"] for one in value(everything)["ports"]]
    await client.call_tool("processKill", {"identifier": "server"})


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_calls_every_tool(official: Connect, mode: str) -> None:
    """With the newest version and with sessions; the client checks each result by its schema."""
    async with (
        providing() as service,
        official(mode, relace_api_key="k", relace_base_url=service.url) as client,
    ):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == REFERENCE | OURS | WITH_KEY
        assert list(tools) == sorted(tools)
        for name, arguments, text in STEPS:
            result = await client.call_tool(name, arguments)
            assert not result.is_error, (name, result.content)
            assert text in shown(result), (name, result.content)
            assert json.loads(shown(result)) == value(result)
        await ports_step(client)
        called = {name for name, _, _ in STEPS} | {"portsList"}
        assert called == set(tools)


async def test_without_a_key_no_tool_is_offered_that_needs_one(official: Connect) -> None:
    """A model is not told of what it cannot do."""
    async with official() as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == REFERENCE | OURS
        with pytest.raises(Exception, match="unknown tool"):
            await client.call_tool("codegenReapply", {"targetFile": "x"})


async def test_schemas_have_the_shape_that_clients_know(official: Connect) -> None:
    """No title, default or reference; what may be null says so; nothing unnamed is taken."""
    async with official() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    execute = tools["processExecute"].input_schema
    assert execute["required"] == ["command"]
    assert execute["properties"]["timeout"]["type"] == ["null", "integer"]
    assert execute["properties"]["waitForPorts"]["items"] == {"type": "integer"}
    assert execute["properties"]["env"]["additionalProperties"] == {"type": "string"}
    assert tools["processesList"].input_schema == {"type": "object", "additionalProperties": False}
    assert (tools["processExecute"].output_schema or {})["required"] == [
        *("pid", "name", "status", "exitCode")
    ]
    for tool in tools.values():
        text = json.dumps([tool.input_schema, tool.output_schema])
        assert not any(f'"{word}"' in text for word in ("title", "default", "$ref", "$defs"))
        for schema in (tool.input_schema, tool.output_schema or {}):
            assert schema["type"] == "object"
            assert schema["additionalProperties"] is False
        assert all("description" in one for one in tool.input_schema.get("properties", {}).values())
        assert tool.annotations is not None


async def test_50_calls_at_once(official: Connect) -> None:
    """All of them succeed, each with its own answer."""
    async with official() as client:

        async def echo(number: int) -> str:
            arguments = {"command": f"echo {number}", "waitForCompletion": True}
            result = await client.call_tool("processExecute", arguments)
            return str(value(result)["logs"])

        answers = await asyncio.gather(*map(echo, range(50)))
    assert answers == [f"{number}\n" for number in range(50)]


async def test_the_official_client_sees_progress(official: Connect) -> None:
    """Its callback is called while the command runs."""
    seen: list[str | None] = []

    async def callback(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with official() as client:
        arguments = {"command": "echo a; sleep 0.3; echo b", "waitForCompletion": True}
        await client.call_tool("processExecute", arguments, progress_callback=callback)
    assert seen == ["a", "b"]


async def test_the_official_client_cancels(official: Connect) -> None:
    """In the newest version by closing its connection: the command is stopped."""
    async with official("auto") as client:
        arguments = {"command": "sleep 60", "name": "long", "waitForCompletion": True}
        call = asyncio.create_task(client.call_tool("processExecute", arguments))
        async with asyncio.timeout(10):
            while (  # noqa: ASYNC110 - the other side is a server
                await client.call_tool("processGet", {"identifier": "long"})
            ).is_error:
                await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])
        ended = await client.call_tool("processWait", {"identifier": "long", "timeout": 10})
    assert value(ended)["status"] == "stopped"


async def test_a_log_is_subscribed_to(official: Connect) -> None:
    """The client is told that it grew, and reads it."""
    updated = asyncio.Event()
    uris: list[str] = []

    async def handle(message: object) -> None:
        if type(message).__name__ == "ResourceUpdatedNotification":
            uris.append(str(message.params.uri))  # type: ignore[attr-defined]
            updated.set()

    async with official("legacy") as first:
        started = {"command": "read x; echo $x; sleep 60", "name": "talk", "stdin": True}
        await first.call_tool("processExecute", started)
        url = first.server if isinstance(first.server, str) else ""
        async with Client(url, mode="legacy", message_handler=handle) as client:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # subscriptions are of the versions with sessions
                await client.subscribe_resource("process:///talk/logs")
            await client.call_tool("processWriteStdin", {"identifier": "talk", "data": "hello\n"})
            async with asyncio.timeout(10):
                await updated.wait()
            content = (await client.read_resource("process:///talk/logs")).contents[0]
        await first.call_tool("processKill", {"identifier": "talk"})
    assert uris[0] == "process:///talk/logs"
    assert content.model_dump()["text"] == "hello\n"


NODE = """
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
const [url, steps] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new Client({ name: 'test', version: '1' });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const { tools } = await client.listTools();
const called = [];
for (const [name, args, text] of steps) {
  const result = await client.callTool({ name, arguments: args });
  if (result.isError || !result.content[0].text.includes(text))
    throw new Error(JSON.stringify(result));
  called.push(name);
}
const seen = [];
await client.callTool({ name: 'processExecute', arguments: { command: 'echo a; sleep 0.3; echo b',
  waitForCompletion: true } }, undefined, { onprogress: (p) => seen.push(p.message) });
await client.close();
console.log(JSON.stringify({ tools: tools.length, called: called.length, seen }));
"""


@pytest.mark.slow
async def test_the_official_typescript_client_calls_every_tool(
    app_client: OpenClient, tmp_path: Path
) -> None:
    """It checks each result by its schema too."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are needed for the TypeScript client")
    place = tmp_path / "node"
    place.mkdir()
    (place / "package.json").write_text('{"private": true, "type": "module"}')
    (place / "client.mjs").write_text(NODE)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    done = await asyncio.to_thread(
        subprocess.run, [*install, "@modelcontextprotocol/sdk@1.32.2"], cwd=place, check=False
    )
    if done.returncode:
        pytest.skip("npm cannot install the TypeScript client here")
    async with providing() as service:
        client = await app_client(relace_api_key="k", relace_base_url=service.url)
        url = str(client.make_url("/mcp"))
        ran = await asyncio.create_subprocess_exec(
            *("node", "client.mjs", url, json.dumps(STEPS)),
            cwd=place,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await ran.communicate()
    assert ran.returncode == 0, err.decode()
    assert json.loads(out) == {"tools": 26, "called": len(STEPS), "seen": ["a", "b"]}
