"""What tools say when something is wrong, and what they leave out (spec/mcp-codegen.md 2 to 5)."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.mcp.conftest import HEADERS, CallTool, OpenClient
from tests.providing import providing
from tests.serving import free_port


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("fsListDirectory", {}, 'validating root: required: missing properties: ["path"]'),
        ("fsListDirectory", {"path": "", "x": 1}, 'unexpected additional properties ["x"]'),
        (
            "fsReadFile",
            {"path": 5},
            'validating /properties/path: type: 5 has type "integer", want "string"',
        ),
        ("processExecute", {"command": "true", "keepAlive": "x"}, 'one of "null, boolean"'),
        ("processExecute", {"command": "true", "timeout": 1.5}, 'one of "null, integer"'),
        ("processExecute", {"command": "true", "timeout": 2**70}, "/properties/timeout"),
        ("processExecute", {"command": "true", "env": {"A": 1}}, "/properties/env"),
        ("processExecute", {"command": "true", "name": "a" * 300}, "failed to start process"),
        (
            "processExecute",
            {"command": "true", "workingDir": "/nope"},
            "failed to start process: could not execute command 'true' because folder '/nope'",
        ),
        ("processGet", {"identifier": "zz"}, "failed to get process: process not found"),
        (
            "processGetLogs",
            {"identifier": "zz"},
            "failed to get process logs: process with PID zz not found",
        ),
        (
            "processStop",
            {"identifier": "zz"},
            "failed to stop process: process with Identifier zz not found",
        ),
        (
            "processKill",
            {"identifier": "zz"},
            "failed to kill process: process with Identifier zz not found",
        ),
        ("processWriteStdin", {"identifier": "zz"}, "process with Identifier zz not found"),
        ("fsReadFile", {"path": "zz"}, "failed to read file: stat "),
        ("fsReadFile", {"path": "."}, "path points to a directory, not a file"),
        ("fsReadFile", {"path": "a\0b"}, "invalid path"),
        ("fsListDirectory", {"path": "zz"}, "failed to list directory: open "),
        ("fsWriteFile", {"path": "."}, "failed to write file: open "),
        ("fsWriteFile", {"path": "x", "permissions": "9"}, "invalid permissions format"),
        ("fsEditFile", {"path": "x", "oldString": "", "newString": ""}, "must be non-empty"),
        ("fsEditFile", {"path": "x", "oldString": "a", "newString": "a"}, "are identical"),
        ("fsEditFile", {"path": "x", "oldString": "a", "newString": "b"}, "failed to read "),
        ("fsDeleteFileOrDirectory", {"path": "zz"}, "failed to delete file: "),
        (
            "fsDeleteFileOrDirectory",
            {"path": ".", "isDirectory": False},
            "failed to delete file: path points to a directory, not a file",
        ),
        ("fsDeleteFileOrDirectory", {"path": "/", "recursive": True}, "set force=true"),
        ("codegenFileSearch", {"query": "x", "directory": "/etc"}, "must be within workspace"),
        ("codegenFileSearch", {"query": "x", "directory": "zz"}, "directory not found: zz"),
        ("codegenFileSearch", {"query": "x", "directory": "../work-evil"}, "within workspace"),
        ("codegenGrepSearch", {"query": "("}, "grep search failed: "),
        ("codegenGrepSearch", {"query": ""}, "grep search failed: "),
        ("codegenCodebaseSearch", {"query": ""}, "codebase search failed: "),
        ("fsFind", {"path": "zz"}, "failed to find: "),
    ],
)
async def test_failures_say_what_to_do(
    tool: CallTool, name: str, arguments: dict[str, Any], text: str
) -> None:
    """A model reads the text and goes on."""
    found = await tool(name, **arguments)
    assert isinstance(found, str), found
    assert text in found


async def test_numbers_that_are_whole_are_integers(tool: CallTool) -> None:
    """As in JSON Schema; and null is as good as absent."""
    found = await tool("processExecute", command="true", timeout=5.0, name=None, maxRestarts=None)
    assert found["status"] in {"running", "completed"}


async def test_arguments_may_be_absent(rpc: CallTool) -> None:
    """For a tool that takes nothing."""
    for arguments in ({}, {"arguments": None}):
        result = await rpc("tools/call", name="fsGetWorkingDirectory", **arguments)
        assert result["structuredContent"]["path"].endswith("/work")
    result = await rpc("tools/call", name="fsGetWorkingDirectory", arguments=[1])
    assert result["isError"] is True


async def test_the_text_of_a_result_has_sorted_keys(rpc: CallTool) -> None:
    """The same JSON each time, so that a model's cache holds."""
    result = await rpc("tools/call", name="processExecute", arguments={"command": "true"})
    keys = list(json.loads(result["content"][0]["text"]))
    assert keys == sorted(keys)


async def test_a_command_runs_where_files_are(tool: CallTool, tmp_path: Path) -> None:
    """The working directory is one for all tools."""
    found = await tool("processExecute", command="pwd", waitForCompletion=True)
    assert found["logs"] == f"{tmp_path}/work\n"


async def test_a_command_that_is_too_slow_is_told_with_its_name(tool: CallTool) -> None:
    """It goes on, so the model must know how to find it."""
    text = await tool(
        "processExecute", command="sleep 60", name="slow", waitForCompletion=True, timeout=1
    )
    assert text.startswith("process timed out after 1 seconds; ")
    assert "'slow' (PID " in text
    assert (await tool("processKill", identifier="slow"))["status"] == "killed"


async def test_a_wait_without_a_limit_ends_and_says_how_to_go_on(
    tool: CallTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's patience ends after a minute."""
    monkeypatch.setattr("sandbox_api.api.mcp.executing.LONGEST_WAIT_S", 1)
    for number, timeout in enumerate((0, -5, 100)):
        found = await tool(
            "processExecute",
            command="echo begun; sleep 60",
            name=f"w{number}",
            waitForCompletion=True,
            timeout=timeout,
        )
        assert (found["status"], found["pollRequired"]) == ("running", True)
        assert found["logs"] == "begun\n"
        assert f"processGet with identifier 'w{number}'" in found["message"]
        await tool("processKill", identifier=f"w{number}")


async def test_a_name_in_use_is_refused(tool: CallTool) -> None:
    """As over HTTP: an agent that starts its server twice is told so."""
    await tool("processExecute", command="sleep 60", name="web")
    text = await tool("processExecute", command="sleep 60", name="web")
    assert text == "failed to start process: process with name 'web' already exists and is running"
    await tool("processKill", identifier="web")


async def test_ports_that_do_not_open_are_told(tool: CallTool) -> None:
    """With the reason."""
    port = free_port()
    text = await tool("processExecute", command="sleep 60", waitForPorts=[port], timeout=1)
    assert text.startswith("process timed out waiting for ports after 1 seconds: ")
    assert str(port) in text
    text = await tool("processExecute", command="exit 3", waitForPorts=[port])
    assert "exit code 3" in text


async def test_long_output_is_cut_and_says_so(tool: CallTool) -> None:
    """Of much output the end."""
    command = "seq 1 200000; echo last"
    await tool("processExecute", command=command, name="much", waitForCompletion=True)
    found = await tool("processGetLogs", identifier="much")
    assert found["truncated"] is True
    assert found["logs"].endswith("200000\nlast\n")
    assert len(found["logs"]) < 300_000
    found = await tool("processGetLogs", identifier="much", tail=2)
    assert (found["logs"], "truncated" in found) == ("200000\nlast\n", False)


async def test_a_listing_has_relative_paths_and_pages(tool: CallTool, tmp_path: Path) -> None:
    """As the client has asked; of many entries a page."""
    for name in ("a", "b", "c"):
        (tmp_path / "work" / name).write_text(name)
    (tmp_path / "work" / "sub").mkdir()
    found = (await tool("fsListDirectory", path=""))["directory"]
    assert (found["name"], found["path"]) == (".", "")
    assert [one["path"] for one in found["files"]] == ["a", "b", "c"]
    assert found["subdirectories"] == [{"name": "sub", "path": "sub"}]
    page = (await tool("fsListDirectory", path="", limit=2))["directory"]
    assert [one["name"] for one in page["files"]] == ["a", "b"]
    rest = await tool("fsListDirectory", path="", cursor=page["nextCursor"])
    assert [one["name"] for one in rest["directory"]["files"]] == ["c"]


async def test_content_that_is_no_text_comes_as_base64(tool: CallTool, tmp_path: Path) -> None:
    """It is not mangled for who asks."""
    (tmp_path / "work" / "b").write_bytes(b"\xff\x00")
    assert (await tool("fsReadFile", path="b"))["content"] == "\ufffd\0"
    found = await tool("fsReadFile", path="b", encoding="base64")
    assert (found["content"], found["encoding"]) == ("/wA=", "base64")


async def test_edits_at_once_are_not_lost(tool: CallTool, tmp_path: Path) -> None:
    """Each of them reads, changes and writes as one step."""
    file = tmp_path / "work" / "f"
    file.write_text("".join(f"<{number}>" for number in range(20)))
    file.chmod(0o755)

    async def edit(number: int) -> dict[str, Any]:
        old, new = f"<{number}>", f"[{number}]"
        return await tool("fsEditFile", path="f", oldString=old, newString=new)

    await edit(0)  # the application is there before all begin
    found = await asyncio.gather(*map(edit, range(1, 20)))
    assert [one["occurrencesReplaced"] for one in found] == [1] * 19
    assert file.read_text() == "".join(f"[{number}]" for number in range(20))
    assert file.stat().st_mode & 0o777 == 0o755


async def test_an_edit_must_be_unique(tool: CallTool, tmp_path: Path) -> None:
    """Unless all places are meant."""
    file = tmp_path / "work" / "f"
    file.write_text("hello")
    text = await tool("fsEditFile", path="f", oldString="l", newString="k")
    assert text.startswith("oldString matches 2 locations in f; add more surrounding context")
    text = await tool("fsEditFile", path="f", oldString="zz", newString="k")
    assert text.startswith("oldString not found in f. Re-read the file and retry")
    found = await tool("fsEditFile", path="f", oldString="l", newString="k", replaceAll=True)
    assert (found["occurrencesReplaced"], file.read_text()) == (2, "hekko")


@pytest.mark.parametrize(
    ("start", "end", "content"),
    [(1, 2, "one\ntwo"), (3, 3, "three"), (4, 4, ""), (2, 1, ""), (5, 4, ""), (1, 4, None)],
)
async def test_a_range_of_lines(
    tool: CallTool, tmp_path: Path, start: int, end: int, content: str | None
) -> None:
    """Counted from 1; a final newline begins an empty line."""
    (tmp_path / "work" / "f").write_text("one\ntwo\nthree\n")
    found = await tool(
        "codegenReadFileRange",
        targetFile="f",
        startLineOneIndexed=start,
        endLineOneIndexedInclusive=end,
    )
    assert found["content"] == ("one\ntwo\nthree\n" if content is None else content)


@pytest.mark.parametrize(("start", "end"), [(3, 1), (0, 1), (1, -1), (-5, -9), (1, 9), (9, 9)])
async def test_a_range_that_is_none_is_refused(
    tool: CallTool, tmp_path: Path, start: int, end: int
) -> None:
    """The reference's daemon dies of it."""
    (tmp_path / "work" / "f").write_text("one\ntwo")
    text = await tool(
        "codegenReadFileRange",
        targetFile="f",
        startLineOneIndexed=start,
        endLineOneIndexedInclusive=end,
    )
    assert "invalid line range" in text


async def test_a_range_is_250_lines_at_most(tool: CallTool, tmp_path: Path) -> None:
    """And says that it is not all."""
    (tmp_path / "work" / "f").write_text("\n".join(map(str, range(1, 2001))))
    found = await tool(
        "codegenReadFileRange",
        targetFile="f",
        startLineOneIndexed=1001,
        endLineOneIndexedInclusive=2000,
    )
    assert found["content"].split("\n")[-1] == "1250"
    assert "1001 to 1250" in found["message"]


async def test_grep_tells_nothing_found_as_success(tool: CallTool, tmp_path: Path) -> None:
    """No match is no failure, a leading dash no option, and what is left out is left out."""
    (tmp_path / "work" / "a.py").write_text("x = -v\n")
    (tmp_path / "work" / "b.js").write_text("x = -v\n")
    found = await tool("codegenGrepSearch", query="zzzq")
    assert json.loads(found["results"])["data"]["stats"]["matched_lines"] == 0
    found = await tool("codegenGrepSearch", query="-V", excludePattern="*.js")
    lines = [json.loads(line) for line in found["results"].splitlines()]
    assert [line["type"] for line in lines] == ["begin", "match", "end", "summary"]
    assert lines[1]["data"]["path"]["text"] == "a.py"
    assert lines[1]["data"]["line_number"] == 1
    found = await tool("codegenGrepSearch", query="-V", caseSensitive=True)
    assert found["results"].count("\n") == 1


async def test_file_search_finds_nothing_as_an_empty_list(tool: CallTool, tmp_path: Path) -> None:
    """Not null; and names that are not ASCII are found."""
    (tmp_path / "work" / "Übung.txt").write_text("")
    assert (await tool("codegenFileSearch", query="zzzq"))["matches"] == []
    found = await tool("codegenFileSearch", query="übung")
    assert found["matches"] == [f"{tmp_path}/work/Übung.txt"]
    assert (await tool("codegenFileSearch", query=""))["matches"] == found["matches"]


async def test_resources_are_files_and_logs(rpc: CallTool, tmp_path: Path) -> None:
    """Listed in pages, read as text or blob, below the working directory only."""
    work = tmp_path / "work"
    (work / "a b.txt").write_text("hé")
    (work / "b.bin").write_bytes(b"\xff")
    for number in range(250):
        (work / f"c{number:03}").write_text("")
    arguments = {"command": "echo hi", "name": "x/y", "waitForCompletion": True}
    await rpc("tools/call", name="processExecute", arguments=arguments)
    first = await rpc("resources/list")
    second = await rpc("resources/list", cursor=first["nextCursor"])
    uris = [one["uri"] for one in first["resources"] + second["resources"]]
    assert uris[:2] == ["process:///x%2Fy/logs", f"file://{work}/a%20b.txt"]
    assert (len(uris), len(set(uris)), "nextCursor" in second) == (253, 253, False)
    texts = [(await rpc("resources/read", uri=uri))["contents"][0] for uri in uris[:3]]
    assert [one.get("text") for one in texts] == ["hi\n", "hé", None]
    assert texts[2]["blob"] == "/w=="
    for bad in (
        "file:///etc/passwd",
        f"file://{work}/../state",
        "file:///nope",
        "process:///z/logs",
    ):
        assert (await rpc("resources/read", uri=bad))["code"] == -32002
    assert len((await rpc("resources/templates/list"))["resourceTemplates"]) == 2
    assert "session" in (await rpc("resources/subscribe", uri=uris[0]))["message"]


async def test_actions_are_audited(tool: CallTool, caplog: pytest.LogCaptureFixture) -> None:
    """As over HTTP, and marked as MCP's."""
    caplog.set_level("INFO", "sandbox_api.audit")
    await tool("processExecute", command="true", name="n", waitForCompletion=True)
    await tool("processGetLogs", identifier="n")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("audit")]
    assert "type=process_exec" in lines[0]
    assert "via=mcp" in lines[0]
    assert "type=process_logs_access" in lines[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
async def test_g29_no_tool_reads_what_the_workload_user_cannot(
    tool: CallTool, tmp_path: Path
) -> None:
    """Reads, writes, searches and commands are the user's own."""
    work = tmp_path / "work"
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o711)
    work.chmod(0o777)
    secret = work / "secret.txt"
    secret.write_text("the best password\n")
    secret.chmod(0o600)
    await tool("fsGetWorkingDirectory", settings={"user": "nobody"})
    calls: list[tuple[str, dict[str, Any]]] = [
        ("fsReadFile", {"path": "secret.txt"}),
        ("fsEditFile", {"path": "secret.txt", "oldString": "best", "newString": "x"}),
        (
            "codegenReadFileRange",
            {"targetFile": "secret.txt", "startLineOneIndexed": 1, "endLineOneIndexedInclusive": 1},
        ),
        ("codegenGrepSearch", {"query": "password"}),
        ("codegenCodebaseSearch", {"query": "password"}),
        ("processExecute", {"command": "cat secret.txt; id -u", "waitForCompletion": True}),
    ]
    told = json.dumps([await tool(name, **arguments) for name, arguments in calls])
    assert "the best" not in told
    assert "65534" in told
    await tool("fsWriteFile", path="mine", content="x")
    assert (work / "mine").stat().st_uid == 65534


async def test_a_long_list_of_processes_is_cut(
    tool: CallTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is always in it; of the ended ones the last."""
    await tool("processExecute", command="sleep 60", name="runs")
    monkeypatch.setattr("sandbox_api.api.mcp.processes.MOST_ENDED", 2)
    for number in range(4):
        await tool("processExecute", command="true", name=f"e{number}", waitForCompletion=True)
    found = await tool("processesList")
    assert [one["name"] for one in found["processes"]] == ["runs", "e2", "e3"]
    assert found["truncated"] is True
    await tool("processKill", identifier="runs")


def _values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    kinds = schema.get("type", "object")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    of_kind: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "integer": st.integers(-(2**64), 2**64) | st.integers(-3, 300),
        "number": st.floats() | st.integers(),
        "string": st.sampled_from(["", ".", "f", "below/x", "true", "exit 1", "f*", "(a+)+$", "\0"])
        | st.text(max_size=20),
    }
    if "array" in kinds:
        of_kind["array"] = st.lists(_values(schema["items"]), max_size=3)
    if "object" in kinds:
        of_kind["object"] = _object(schema)
    return st.one_of([of_kind[kind] for kind in kinds])


def _object(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if isinstance(schema.get("additionalProperties"), dict):
        return st.dictionaries(st.text(max_size=5), _values(schema["additionalProperties"]))
    fields = {name: _values(one) for name, one in schema.get("properties", {}).items()}
    needed = {name: fields.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(needed, optional=fields)


def _tame(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Nothing that harms this machine, and nothing that takes long."""
    tamed = {**arguments}
    for key in ("path", "targetFile"):
        if isinstance(tamed.get(key), str):
            tamed[key] = tamed[key].replace("..", "").replace("~", "").lstrip("/")
    if name.startswith("process"):
        commands = ("true", "exit 3", "echo out", "kill -9 $$", "")
        tamed["command"] = commands[len(str(arguments.get("command"))) % len(commands)]
        tamed["timeout"] = 1 if "timeout" in tamed else None
        tamed["restartOnFailure"] = False
    if name != "processExecute":
        tamed = {key: tamed[key] for key in arguments}
    tamed.pop("force", None)
    return tamed


async def test_g27_made_up_arguments_of_every_tool(app_client: OpenClient, tmp_path: Path) -> None:
    """Whatever fits a schema, or nearly, is answered by a result; the daemon lives."""
    (tmp_path / "work" / "f").write_text("text\n")
    async with providing() as service:
        client = await app_client(relace_api_key="k", relace_base_url=service.url)
        await _fuzz(client)
        assert (await client.get("/health")).status == 200


async def _fuzz(client: TestClient) -> None:
    loop = asyncio.get_running_loop()

    async def post(method: str, params: dict[str, Any]) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = await client.post("/mcp", data=json.dumps(body), headers=HEADERS)
        assert response.status in {200, 400}, params
        return await response.json(content_type=None)

    tools = (await post("tools/list", {}))["result"]["tools"]

    def fuzz(tool: dict[str, Any]) -> None:
        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(_object(tool["inputSchema"]))
        def run(arguments: dict[str, Any]) -> None:
            params = {"name": tool["name"], "arguments": _tame(tool["name"], arguments)}
            answer = asyncio.run_coroutine_threadsafe(post("tools/call", params), loop).result(60)
            refused = "NaN" in json.dumps(params) or "Infinity" in json.dumps(params)
            assert ("result" in answer) is not refused, (params, answer)

        run()

    for tool in tools:
        await asyncio.to_thread(fuzz, tool)
    assert (await client.get("/health")).status == 200
