"""G32: the built file runs in any root, as any user, read-only or not, as PID 1.

Not as PID 1 it runs in all other tests that SANDBOX_API_BIN turns to the file (.ci/run).

A feature is added to the matrix as one function: CHECKS runs each in every case.
"""

import asyncio
import http.client
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from sandbox_api import __version__
from tests.e2e.https import https_server
from tests.e2e.roots import (
    DEADLINE_S,
    EMULATED,
    MAKERS,
    PLACE,
    PROJECT,
    STATES,
    Case,
    Roots,
    needs_binary,
    needs_root,
    running,
)

pytestmark = [pytest.mark.slow, needs_binary, needs_root, pytest.mark.timeout(180)]

NAME = "grüße ☃.txt"
SHELL_ROOT = next(name for name in MAKERS if name != "scratch")
NO_DEVICES = "umount $M/dev/null $M/dev/urandom; rm $M/dev/null $M/dev/urandom"
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="p"\r\n\r\n%s\r\n--x--\r\n'


def check_health(case: Case) -> None:
    """What it is, and what it was built from."""
    health = case.json("GET", "/health")
    assert (health["status"], health["version"]) == ("ok", __version__)
    assert health["gitCommit"] != "unknown"
    assert health["buildTime"].endswith("Z")


def check_process(case: Case) -> None:
    """One process, PID 1, whose program is the file itself."""
    proc = Path(f"/proc/{case.pid}")
    words = (proc / "cmdline").read_bytes().decode().split("\0")
    if EMULATED:
        assert words[1] == f"/{PLACE}"  # the first is qemu, and so is the program
    else:
        assert os.readlink(proc / "exe").endswith(PLACE)
        assert words[0] == f"/{PLACE}"
    status = dict(
        line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
    )
    assert status["NSpid"].split()[-1] == "1"
    assert status["Uid"].split() == [str(case.uid)] * 4


def check_pages(case: Case) -> None:
    """The files that the executable carries are those of the package."""
    for path, file in (
        ("/openapi.yml", "openapi.yml"),
        ("/swagger/index.html", "swagger/index.html"),
        ("/swagger/swagger-ui-bundle.js", "swagger/swagger-ui-bundle.js"),
    ):
        expected = (PROJECT / "sandbox_api/web" / file).read_bytes()
        assert case.request("GET", path) == (200, expected)


def check_files(case: Case) -> None:
    """A file goes in and comes out, with any name; where nothing is writable, that is said."""
    path = f"/filesystem//tmp/{quote(NAME)}"
    content = os.urandom(300_000)
    headers = {"Content-Type": "application/octet-stream"}
    status, text = case.request("PUT", path, content, headers)
    if not case.can_write:
        assert status in {403, 422}, text
        assert "error" in json.loads(text)
        return
    assert status == 200, text
    assert case.request("GET", f"{path}?download=true") == (200, content)
    names = [one["name"] for one in case.json("GET", "/filesystem//tmp")["files"]]
    assert NAME in names


def check_upload(case: Case) -> None:
    """A multipart upload in two parts."""
    if not case.can_write:
        return
    begun = case.json("POST", "/filesystem-multipart/initiate/tmp/large.bin", {})
    upload = begun["uploadId"]
    parts = [os.urandom(6 << 20), os.urandom(1 << 20)]
    tags = []
    for number, part in enumerate(parts, 1):
        status, text = case.request(
            "PUT",
            f"/filesystem-multipart/{upload}/part?partNumber={number}",
            FORM % part,
            {"Content-Type": "multipart/form-data; boundary=x"},
        )
        assert status == 200, text
        tags.append({"partNumber": number, "etag": json.loads(text)["etag"]})
    case.json("POST", f"/filesystem-multipart/{upload}/complete", {"parts": tags})
    path = "/filesystem//tmp/large.bin?download=true"
    assert case.request("GET", path) == (200, b"".join(parts))


def check_trees(case: Case) -> None:
    """Many files in, as an archive out, and copied."""
    if not case.can_write:
        return
    files = {"a.txt": "a", "b/c.txt": "c"}
    case.json("PUT", "/filesystem/tree/tmp/tree", {"files": files})
    status, archive = case.request(
        "GET", "/filesystem//tmp/tree", headers={"Accept": "application/x-tar"}
    )
    assert status == 200, archive
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {one.name for one in tar if one.isfile()} >= set(files)
    case.json("POST", "/filesystem-copy", {"source": "/tmp/tree", "destination": "/tmp/copy"})
    assert case.request("GET", "/filesystem//tmp/copy/b/c.txt?download=true") == (200, b"c")


def check_watch(case: Case) -> None:
    """What is created is told, by the kernel's events and by looking again and again."""
    if not case.can_write:
        assert case.request("HEAD", "/watch/filesystem//etc")[0] == 200
        return
    for number, query in enumerate(("", "?poll=true")):
        with closing(http.client.HTTPConnection("127.0.0.1", case.port, timeout=DEADLINE_S)) as one:
            one.request("GET", f"/watch/filesystem//tmp/**{query}")
            answer = one.getresponse()  # the headers say that it is armed
            case.json("PUT", f"/filesystem//tmp/watched-{number}", {"content": "x"})
            events = (json.loads(line) for line in answer if line.startswith(b"{"))
            next(event for event in events if event["name"] == f"watched-{number}")


def check_search(case: Case) -> None:
    """By name, by content in a process of its own, and with a typo (rapidfuzz, when first used)."""
    for request in (
        "/filesystem-find//etc?patterns=host*",
        "/filesystem-content-search//etc?regex=true&query=ro%2Bt|localh.st",
        "/filesystem-search//etc?approximate=true&query=hotsname",
    ):
        reply = case.json("GET", request)
        assert reply["matches"], (request, reply)


def check_terminal(case: Case) -> None:
    """The page, and a session: what is typed is run; where there is no shell, that is said."""
    assert case.request("GET", "/terminal")[0] == 200
    messages = asyncio.run(_type(case.port, "echo $((6 * 7)); exit 5\r"))
    if not case.has_shell:
        assert [one["type"] for one in messages] == ["error"]
        return
    assert "42" in "".join(one["data"] for one in messages if one["type"] == "output")
    assert messages[-1] == {"type": "exit", "exitCode": 5, "signal": None}


async def _type(port: int, text: str) -> list[dict[str, Any]]:
    """What a terminal tells until it ends."""
    url = f"http://127.0.0.1:{port}/terminal/ws?shell=/bin/sh&workingDir=/"
    async with (
        asyncio.timeout(DEADLINE_S),
        ClientSession() as session,
        session.ws_connect(url) as socket,
    ):
        await socket.send_json({"type": "input", "data": text})
        return [json.loads(one.data) async for one in socket]


def check_tools(case: Case) -> None:
    """MCP, whose code is imported when it is first used."""
    call = {"name": "fsListDirectory", "arguments": {"path": "/etc"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    accept = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }
    status, text = case.request("POST", "/mcp", body, accept)
    assert status == 200, text
    assert b"hostname" in text


def check_ports(case: Case) -> None:
    """What is open, and the way to it."""
    ports = case.json("GET", "/network/ports")["ports"]
    assert case.port in {one["localPort"] for one in ports}
    assert case.request("GET", "/port/1/")[0] == 502


def check_tls(case: Case) -> None:
    """A service that a CA of the root vouches for is asked."""
    ranked = case.json("GET", "/codegen/reranking//etc?query=x")
    assert "hostname" in {Path(one["path"]).name for one in ranked["files"]}


def check_command(case: Case) -> None:
    """Output and exit code; the child's environment is the daemon's, nothing added or changed."""
    if not case.has_shell:
        text = case.request("POST", "/process", {"command": "true", "waitForCompletion": True})
        assert text[0] in {200, 400, 422}, text
        return
    reply = case.json(
        "POST",
        "/process",
        {
            "command": f"echo {NAME}; cat /proc/$$/environ; exit 3",
            "waitForCompletion": True,
            "workingDir": "/",
        },
    )
    assert reply["exitCode"] == 3, reply
    first, _, environment = reply["stdout"].partition("\n")
    assert first == NAME
    expected = sorted(f"{name}={value}" for name, value in case.launch.items())
    assert sorted(environment.rstrip("\0").split("\0")) == expected


def check_log(case: Case) -> None:
    """Nothing went wrong, whatever the image lacks."""
    lines = case.log()
    own = [line for line in lines if line.get("source") != "access"]
    assert [line for line in own if line["level"] in {"error", "fatal"}] == []
    missing = [line["msg"] for line in lines if " is missing: " in line["msg"]]
    assert any("/tmp" in text for text in missing) == (case.state == "no-tmp")
    has_passwd = case.root != "scratch"
    assert any("/etc/passwd" in text for text in missing) != has_passwd


CHECKS = (
    check_health,
    check_process,
    check_pages,
    check_files,
    check_upload,
    check_trees,
    check_watch,
    check_search,
    check_tools,
    check_ports,
    check_tls,
    check_terminal,
    check_command,
    check_log,
)


@pytest.fixture(scope="module")
def service(authority: Path) -> Iterator[dict[str, str]]:
    """The environment with which the daemon has a service that it asks by HTTPS."""
    with https_server(authority) as port:
        yield {"RELACE_API_KEY": "a-key", "RELACE_BASE_URL": f"https://localhost:{port}"}


@pytest.mark.parametrize(("root", "state", "uid"), [*product(MAKERS, STATES, (0, 1000))])
def test_g32_runs_in(
    roots: Roots, tmp_path: Path, service: dict[str, str], root: str, state: str, uid: int
) -> None:
    """Every root, in every state, as root and as somebody."""
    with running(roots, tmp_path, root, state, uid, **service) as case:
        for check in CHECKS:
            check(case)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("/dev/shm", "rm -r $M/dev/shm"),
        ("/etc/passwd", "rm $M/etc/passwd"),
        ("/tmp", "rm -r $M/tmp"),
    ],
)
def test_g32_without(roots: Roots, tmp_path: Path, part: str, change: str) -> None:
    """What a root lacks is said once, as a warning; commands run and files are served."""
    with running(roots, tmp_path, SHELL_ROOT, change=change) as case:
        body = {"command": "id -u; exit 4", "waitForCompletion": True, "workingDir": "/"}
        reply = case.json("POST", "/process", body)
        assert (reply["exitCode"], reply["stdout"]) == (4, "0\n")
        case.json("PUT", "/filesystem//root/a.txt", {"content": "a"})
        assert case.request("GET", "/filesystem//root/a.txt?download=true") == (200, b"a")
        said = [line["level"] for line in case.log() if f"{part} is missing" in line["msg"]]
        assert said == ["warning"]


def test_g32_without_proc(roots: Roots, tmp_path: Path) -> None:
    """Nothing is known about processes without /proc; commands run all the same."""
    with running(roots, tmp_path, SHELL_ROOT, change="ls $M/proc") as case:
        reply = case.json(
            "POST", "/process", {"command": "echo here; exit 4", "waitForCompletion": True}
        )
        assert (reply["exitCode"], reply["stdout"]) == (4, "here\n")
        assert any("/proc is not mounted" in line["msg"] for line in case.log())


def test_g32_without_null(roots: Roots, tmp_path: Path) -> None:
    """A root without devices is told what it lacks, and serves files."""
    with running(roots, tmp_path, "scratch", change=NO_DEVICES) as case:
        check_files(case)
        assert any("/dev/null is missing" in line["msg"] for line in case.log())
