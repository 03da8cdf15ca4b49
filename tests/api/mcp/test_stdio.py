"""`sandbox-api mcp`: the same server on stdin and stdout."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SANDBOX_STATE_DIR": str(tmp_path / "state"),
        "WORKDIR": str(tmp_path),
    }


def run(tmp_path: Path, lines: bytes) -> tuple[int, list[Any]]:
    """Exit status, and the messages that it wrote, by the order of their ids."""
    done = subprocess.run(
        [sys.executable, "-m", "sandbox_api", "mcp"],
        input=lines,
        capture_output=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


async def note(
    seen: list[str | None], progress: float, total: float | None, message: str | None
) -> None:
    seen.append(message)


async def test_the_official_client_over_stdio(tmp_path: Path) -> None:
    """A desktop client starts it itself."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "sandbox_api", "mcp"],
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    for mode in ("auto", "legacy"):
        async with Client(stdio_client(server), mode=mode) as client:
            assert len((await client.list_tools()).tools) == 22
            seen: list[str | None] = []
            arguments = {"command": "pwd; sleep 0.2; echo b", "waitForCompletion": True}
            result = await client.call_tool(
                "processExecute", arguments, progress_callback=partial(note, seen)
            )
            assert (result.structured_content or {})["logs"] == f"{tmp_path}\nb\n"
            assert seen == [str(tmp_path), "b"]


def test_the_end_of_input_ends_it_after_the_answers(tmp_path: Path) -> None:
    """What was asked for before it is answered, and nothing else stands on stdout."""
    calls = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {
                "name": "processExecute",
                "arguments": {"command": f"sleep 0.2; echo {number}", "waitForCompletion": True},
            },
        }
        for number in range(3)
    ]
    status, answers = run(tmp_path, "\n".join(map(json.dumps, calls)).encode())
    assert status == 0
    logs = {one["id"]: one["result"]["structuredContent"]["logs"] for one in answers}
    assert logs == {0: "0\n", 1: "1\n", 2: "2\n"}


def test_g27_lines_that_are_no_messages(tmp_path: Path) -> None:
    """Each is answered by an error, a line that is too long too, and the next is served."""
    ping = b'{"jsonrpc":"2.0","id":"p","method":"ping"}'
    lines = [b"{", b"\xff", b"x" * (5 << 20), b"", b"7", ping]
    status, answers = run(tmp_path, b"\n".join(lines) + b"\n")
    assert status == 0
    assert sorted(one["error"]["code"] for one in answers if "error" in one) == [
        *(-32700, -32700, -32600, -32600)
    ]
    assert {"jsonrpc": "2.0", "id": "p", "result": {}} in answers
