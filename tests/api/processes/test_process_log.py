"""Lines of processes in the daemon's own log (spec/process.md 9)."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.test_init import run, until

StartDaemon = Callable[..., SimpleNamespace]


def told(daemon: SimpleNamespace) -> list[dict[str, Any]]:
    """What the log has of processes."""
    return [line for line in daemon.log() if line.get("source") == "process"]


def test_each_line_is_a_line_of_the_log(start_daemon: StartDaemon) -> None:
    """With name, pid and stream; stderr is an error; a count of what was left out comes last."""
    daemon = start_daemon()
    reply = run(daemon, "echo '{\"a\": 1}'; sleep 0.01; echo wrong >&2", name="n")
    until(lambda: len(told(daemon)) == 2)
    out, err = told(daemon)
    out.pop("time")
    assert out == {
        "source": "process",
        "process-name": "n",
        "process-pid": reply["pid"],
        "stream": "stdout",
        "level": "info",
        "msg": '{"a": 1}',
    }
    assert (err["msg"], err["stream"], err["level"]) == ("wrong", "stderr", "error")
    run(daemon, "seq 100000", name="flood")
    until(lambda: told(daemon)[-1].get("skipped"))
    assert (told(daemon)[-1]["level"], len(told(daemon))) == ("warning", 203)


@pytest.mark.parametrize("value", ["true", "1"])
def test_it_can_be_switched_off(start_daemon: StartDaemon, value: str) -> None:
    """Then the log has what it had, and nothing of processes."""
    daemon = start_daemon(env={"SANDBOX_DISABLE_PROCESS_LOGGING": value})
    run(daemon, "echo x")
    until(lambda: any(line.get("source") == "access" for line in daemon.log()))
    assert told(daemon) == []
