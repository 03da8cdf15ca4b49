"""G32: the built file runs in any root, as any user, read-only or not, as PID 1.

Not as PID 1 it runs in all other tests that SANDBOX_API_BIN turns to the file (.ci/run).

A feature is added to the matrix as one function: CHECKS runs each in every case.
"""

import json
import os
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest

from sandbox_api import __version__
from tests.e2e.roots import (
    LAUNCH,
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
    assert os.readlink(proc / "exe").endswith(PLACE)
    assert (proc / "cmdline").read_bytes().split(b"\0")[0].decode() == f"/{PLACE}"
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
    """The page; sessions are tested where there is a pty (tests/e2e)."""
    assert case.request("GET", "/terminal")[0] == 200


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
    expected = sorted(f"{name}={value}" for name, value in LAUNCH.items())
    assert sorted(environment.rstrip("\0").split("\0")) == expected


def check_log(case: Case) -> None:
    """Nothing went wrong, whatever the image lacks."""
    lines = case.log()
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
    check_search,
    check_terminal,
    check_command,
    check_log,
)


@pytest.mark.parametrize(("root", "state", "uid"), [*product(MAKERS, STATES, (0, 1000))])
def test_g32_runs_in(roots: Roots, tmp_path: Path, root: str, state: str, uid: int) -> None:
    """Every root, in every state, as root and as somebody."""
    with running(roots, tmp_path, root, state, uid) as case:
        for check in CHECKS:
            check(case)


def test_g32_without_proc(roots: Roots, tmp_path: Path) -> None:
    """Nothing is known about processes without /proc; commands run all the same."""
    with running(roots, tmp_path, "busybox", change="ls $M/proc") as case:
        reply = case.json(
            "POST", "/process", {"command": "echo here; exit 4", "waitForCompletion": True}
        )
        assert (reply["exitCode"], reply["stdout"]) == (4, "here\n")
        assert any("/proc is not mounted" in line["msg"] for line in case.log())


def test_g32_without_null(roots: Roots, tmp_path: Path) -> None:
    """A root without devices is told what it lacks, and serves files."""
    with running(roots, tmp_path, "scratch", change="rm $M/dev/null $M/dev/urandom") as case:
        check_files(case)
        assert any("/dev/null is missing" in line["msg"] for line in case.log())
