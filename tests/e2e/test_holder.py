"""G14: what a program writes, and that it ends, while no daemon lives."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from sandbox_api.core.processes import holding
from sandbox_api.core.processes.tree import all_stats, read_children, read_stat
from tests.e2e.conftest import ENDS, Sandbox, eventually, gone, kernel_tells


def holders(sandbox: Sandbox) -> list[int]:
    """The daemon's process that holds output."""
    stats = [read_stat(pid) for pid in read_children(sandbox.daemon.process.pid)]
    return [stat.pid for stat in stats if stat is not None and stat.name == holding.NAME]


def all_holders() -> set[int]:
    """Those of all daemons, also of ones that are dead."""
    return {stat.pid for stat in all_stats() if stat.name == holding.NAME}


def pipes_of(pid: int) -> int:
    """How many pipes of runs a process has open."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.endswith(".pipe") for link in links)


def holds_two(pid: int) -> bool:
    """Whether both pipes of a run have been handed over."""
    return pipes_of(pid) == 2


@ENDS
def test_g14_output_of_a_program_that_ends_without_a_daemon(
    sandbox: Sandbox, tmp_path: Path, end: signal.Signals
) -> None:
    """Nothing of it is lost, however the daemon ended, and nothing comes twice."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = sandbox.run(f"echo before; cat {gate}; seq 40000; echo oops >&2", name="x")
    (holder,) = eventually(lambda: holders(sandbox))
    eventually(partial(holds_two, holder))
    before = all_holders()
    sandbox.end(end)
    gate.write_text("")
    eventually(lambda: gone(int(process["pid"])))
    eventually(lambda: gone(holder))
    assert before - all_holders() >= {holder}
    sandbox.start()
    expected = "before\n" + "".join(f"{number}\n" for number in range(1, 40001))
    for _ in range(2):
        logs = sandbox.call("GET", "/process/x/logs")
        assert (logs["stdout"], logs["stderr"]) == (expected, "oops\n")
        assert sandbox.get("x")["status"] != "running"
        sandbox.restart()
    assert not list((tmp_path / "state").rglob("*.rest-*"))


def test_g14_late_output_without_a_daemon(sandbox: Sandbox, tmp_path: Path) -> None:
    """That of a child that was left behind, too."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = f"(cat {gate}; echo late) & echo $!"
    child = int(sandbox.run(command, name="x", waitForCompletion=True)["stdout"])
    (holder,) = eventually(lambda: holders(sandbox))
    eventually(partial(holds_two, holder))
    sandbox.end()
    gate.write_text("")
    eventually(lambda: gone(child))
    sandbox.start()
    logs = sandbox.call("GET", "/process/x/logs")
    assert logs["stdout"] == f"{child}\nlate\n"


def test_g14_over_several_daemons(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each one takes over from the holder of the one before; there is one at a time."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = sandbox.run(f"cat {gate}; echo end", name="x")
    seen: set[int] = set()
    for _ in range(3):
        (holder,) = eventually(lambda: holders(sandbox))
        eventually(partial(holds_two, holder))
        assert all(gone(pid) for pid in seen)
        seen.add(holder)
        sandbox.restart()
    sandbox.end()
    gate.write_text("")
    eventually(lambda: gone(int(process["pid"])))
    sandbox.start()
    assert sandbox.call("GET", "/process/x/logs")["stdout"] == "end\n"


def test_a_holder_has_nothing_but_pipes(sandbox: Sandbox) -> None:
    """No variable, no file, no session of the daemon's, and it survives a kill of the run."""
    process = sandbox.run("sleep 600", name="x")
    (holder,) = eventually(lambda: holders(sandbox))
    eventually(partial(holds_two, holder))
    assert Path(f"/proc/{holder}/environ").read_bytes() == b""
    stat = read_stat(holder)
    assert stat is not None
    assert stat.session == holder
    errors = Path(f"/proc/{sandbox.daemon.process.pid}/fd/2").readlink()
    assert errors not in [path.readlink() for path in Path(f"/proc/{holder}/fd").iterdir()]
    assert sandbox.call("DELETE", "/process/x/kill")["survivors"] == []
    assert gone(int(process["pid"]))
    eventually(lambda: pipes_of(holder) == 0)
    assert holders(sandbox) == [holder]


def test_a_daemon_without_commands_is_alone(sandbox: Sandbox) -> None:
    """It starts no other process, and its memory is its own."""
    assert read_children(sandbox.daemon.process.pid) == []


@ENDS
def test_a_holder_without_pipes_ends_with_its_daemon(sandbox: Sandbox, end: signal.Signals) -> None:
    """It is there only as long as it is needed."""
    sandbox.run("sleep 0.2", name="x", waitForCompletion=True)
    (holder,) = eventually(lambda: holders(sandbox))
    sandbox.end(end)
    eventually(lambda: gone(holder))


def test_a_daemon_without_a_holder_works(sandbox: Sandbox, tmp_path: Path) -> None:
    """Somebody has killed it: commands run, and the next daemon has one again."""
    sandbox.run("sleep 600", name="first")
    (holder,) = eventually(lambda: holders(sandbox))
    os.kill(holder, signal.SIGKILL)
    eventually(lambda: gone(holder))
    sandbox.run("echo x; exec sleep 600", name="x")
    sandbox.restart()
    eventually(lambda: sandbox.get("x")["stdout"] == "x\n")
    assert len(eventually(lambda: holders(sandbox))) == 1
    assert len(list((tmp_path / "state").rglob(".holder-*"))) == 1


def test_a_file_in_the_working_directory_is_not_the_holder(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload may write there. The one-file build has no file of its own, only names of them."""
    sandbox.end()
    planted = tmp_path / "<sandbox-api>" / f"{holding.__name__.replace('.', '/')}.py"
    planted.parent.mkdir(parents=True)
    planted.write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    sandbox.start()
    sandbox.run("sleep 600", name="x")
    (holder,) = eventually(lambda: holders(sandbox))
    eventually(partial(holds_two, holder))


@pytest.mark.parametrize("depth", [1, 60])
def test_a_long_path(sandbox: Sandbox, tmp_path: Path, depth: int) -> None:
    """A socket's name has at most 108 bytes; a directory's has not."""
    sandbox.end()
    directory = tmp_path.joinpath(*["abc"] * depth)
    directory.mkdir(parents=True)
    sandbox.variables["SANDBOX_STATE_DIR"] = str(directory)
    sandbox.start()
    sandbox.run("sleep 0.3; echo end", name="x")
    (holder,) = eventually(lambda: holders(sandbox))
    eventually(partial(holds_two, holder))
    sandbox.end()
    eventually(lambda: gone(holder))
    sandbox.start()
    assert sandbox.call("GET", "/process/x/logs")["stdout"] == "end\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("exit 0", ("completed", 0, None)),
        ("exit 7", ("failed", 7, None)),
        ("kill -KILL $$", ("failed", -1, "SIGKILL")),
        ("exec >/dev/null 2>&1; sleep 0.2; exit 9", ("failed", 9, None)),  # no pipe any more
    ],
)
def test_g14_how_it_ended_without_a_daemon(
    sandbox: Sandbox, tmp_path: Path, command: str, expected: tuple[str, int, str | None]
) -> None:
    """Exact where the kernel tells it; then what has ended well is not run again either."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    body = {"restartOnFailure": expected[1] == 0, "maxRestarts": 1}
    process = sandbox.run(f"cat {gate}; {command}", name="x", **body)
    (holder,) = eventually(lambda: holders(sandbox))
    eventually(partial(holds_two, holder))
    sandbox.end()
    gate.write_text("")
    eventually(lambda: gone(int(process["pid"])))
    eventually(lambda: gone(holder))
    sandbox.start()
    ended = sandbox.wait("x")
    if kernel_tells(ended):
        assert (ended["status"], ended["exitCode"], ended["signal"]) == expected
        assert ended["restartCount"] == 0
