"""Requests made up from openapi.yml, valid and broken: no crash, no 500 (G27).

The daemon runs commands and files as an unprivileged user where it can, starts only harmless
commands, and writes and deletes only below its own directory.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from tests.core.conftest import let_others_in
from tests.serving import DAEMON

DOCUMENT = Path(__file__).parents[1] / "openapi.yml"
COMMANDS = ("true", "exit 3", "echo out; echo err >&2", "kill -9 $$", "printf 'no newline'")
NOBODY = 65534
UP_WITHIN_S = 20

schema = (
    schemathesis.openapi.from_path(DOCUMENT)
    .exclude(path="/network/process//ports")  # the fuzzer's HTTP client joins the two slashes
    .exclude(path_regex="^/port/")  # whatever listens on this machine would be asked
    .exclude(path="/network/ports/stream", method="GET")  # it has no end
)

# the four texts that existing clients expect with a 500 (guarantee G27)
PINNED = re.compile(
    r"failed to upload part: (upload not found: |part number must be between 1 and 10000$)"
    r"|failed to complete upload: (part -?\d+ not found$|etag mismatch for part )"
)


@schemathesis.serializer("application/x-tar")
def send_as_it_is(_: Any, value: Any) -> bytes:  # noqa: ANN401 - untyped
    """An archive that is none: made-up bytes."""
    return value if isinstance(value, bytes) else str(value).encode()


def no_fault_of_ours(ctx: Any, response: Any, case: Any) -> bool | None:  # noqa: ANN401 - untyped
    """No 5xx but for those."""
    if response.status_code == 500 and PINNED.match(response.json()["error"]):
        return None
    return checks.not_a_server_error(ctx, response, case)


CHECKS = [
    no_fault_of_ours,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


WRITING = frozenset({"PUT", "DELETE"})
UNTAMED = frozenset({"/filesystem/tree/{path}", "/filesystem-multipart/initiate/{path}"})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A daemon in its own directory; it has to end as cleanly as it began."""
    root = tmp_path_factory.mktemp("fuzz")
    if os.geteuid() == 0:
        os.chown(root, NOBODY, NOBODY)
        let_others_in(root)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flags = ["-user", f"{NOBODY}:{NOBODY}"] if os.geteuid() == 0 else []
    with (root.parent / "fuzz.log").open("wb") as log:
        process = subprocess.Popen(
            [*DAEMON, "-p", str(port), *flags],
            cwd=root,
            env={
                "PATH": os.environ["PATH"],
                "SANDBOX_STATE_DIR": str(root.parent / "fuzz-state"),
                "SANDBOX_SEARCH_TIMEOUT_SECONDS": "2",  # a path may be the root of all
            },
            stderr=log,
        )
    base = f"http://127.0.0.1:{port}"
    wait_until_up(process, base)
    yield base, root
    assert requests.get(f"{base}/health", timeout=UP_WITHIN_S).ok
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0


def wait_until_up(process: "subprocess.Popen[bytes]", base: str) -> None:
    end = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            requests.get(f"{base}/health", timeout=UP_WITHIN_S)
        except requests.ConnectionError:
            assert process.poll() is None, "the daemon did not start"
            assert time.monotonic() < end, "the daemon is not up in time"
            time.sleep(0.02)
        else:
            return


def tame(case: "schemathesis.Case[Any]", root: Path) -> None:
    """Keep a request from doing harm, whatever the fuzzer thought of, and from the whole disk."""
    changes = case.path == "/filesystem/{path}" and case.method in WRITING
    packs = bool(case.headers) and "application/x-tar" in str(case.headers.get("Accept"))
    path = str(case.path_parameters.get("path", "")).replace("..", "")
    if case.path in UNTAMED or changes or packs:
        base = f"{root}/below" if "tree" in case.path else "below"
        case.path_parameters["path"] = f"{base}/{path}"
    if case.path == "/watch/filesystem/{path}":  # of a directory that is there it would not end
        case.path_parameters["path"] = f"none/{path}"
    if isinstance(case.body, dict):
        tame_body(case.body, case.operation.label)


def tame_body(body: dict[str, Any], label: str) -> None:
    """The same for what stands in a JSON body."""
    for key in ("source", "destination"):
        if isinstance(named := body.get(key), str):
            body[key] = "below/" + named.replace("..", "")
    if isinstance(callback := body.get("callback"), str):
        body["callback"] = callback.replace("://", "://127.0.0.1:9/")
    if label == "POST /process":
        if isinstance(command := body.get("command"), str) and command:
            body["command"] = COMMANDS[len(command) % len(COMMANDS)]
        body.pop("restartOnFailure", None)


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_g27_made_up_requests(case: "schemathesis.Case[Any]", daemon: tuple[str, Path]) -> None:
    """Every answer to every request is one that the contract describes."""
    base, root = daemon
    tame(case, root)
    response = case.call_and_validate(base_url=base, checks=CHECKS, timeout=UP_WITHIN_S)
    assert response.status_code != 500 or PINNED.match(response.json()["error"])
