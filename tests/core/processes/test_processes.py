"""Running commands: status and exit code, names and identifiers, what a child gets."""

import asyncio
import json
import os
import resource
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_api.core.processes import Process, Status
from sandbox_api.errors import FailedError, InvalidError, NotFoundError
from tests.core.processes.conftest import Engine, OpenEngine, text


def outcome(process: Process) -> tuple[Status, int, str | None]:
    """Status, exit code and signal."""
    return process.status, process.exit_code, process.signal


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("true", (Status.COMPLETED, 0, None)),
        ("exit 7", (Status.FAILED, 7, None)),
        ("no-such-program", (Status.FAILED, 127, None)),
        ("/etc/passwd", (Status.FAILED, 126, None)),
        ("kill -KILL $$", (Status.FAILED, -1, "SIGKILL")),
        ("kill -SEGV $$", (Status.FAILED, -1, "SIGSEGV")),
        ("kill -40 $$", (Status.FAILED, -1, "SIG40")),
        ("sh -c 'kill -KILL $$'; exit $?", (Status.FAILED, 137, None)),
    ],
)
async def test_status_and_exit_code(
    engine: Engine, command: str, expected: tuple[Status, int, str | None]
) -> None:
    """The table of spec/process.md 5.1; a death by signal is -1 and named, never 0."""
    process = await engine.run(command)
    assert outcome(process) == expected
    assert process.completed_at is not None
    assert process.completed_at >= process.started_at


async def test_it_runs_until_it_ends(engine: Engine) -> None:
    """While it runs there is no exit code and no end."""
    process = await engine.start("read x < fifo", working_dir=_fifo(engine))
    assert outcome(process) == (Status.RUNNING, 0, None)
    assert process.completed_at is None
    assert not await engine.processes.wait(process, 0.01)
    _release(engine)
    assert await engine.processes.wait(process, None)
    assert process.status is Status.FAILED  # `read` got no whole line


def _fifo(engine: Engine) -> str:
    os.mkfifo(engine.directory / "fifo")
    return str(engine.directory)


def _release(engine: Engine) -> None:
    os.close(os.open(engine.directory / "fifo", os.O_WRONLY))


async def test_g09_a_background_child_does_not_hold_the_end(
    engine: Engine, eventually: Callable[..., Awaitable[object]]
) -> None:
    """The process ends with its shell; what the child writes later is still logged."""
    directory = _fifo(engine)
    process = await engine.run("(cat fifo; echo late) & echo done", working_dir=directory)
    assert process.status is Status.COMPLETED
    assert text(process.output) == b"done\n"
    _release(engine)
    await eventually(lambda: text(process.output) == b"done\nlate\n")


async def test_g09_output_of_the_shell_is_complete_at_its_end(engine: Engine) -> None:
    """All that was written before the exit is there when the wait returns."""
    process = await engine.run("sleep 60 & seq 100000")
    assert process.output.end == process.output.position
    assert text(process.output) == b"".join(b"%d\n" % n for n in range(1, 100001))
    await engine.processes.kill(process.name)


LIST_DESCRIPTORS = """
import json, os
fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps({"fds": sorted(map(int, fds)), "stdin": os.readlink("/proc/self/fd/0"),
                  "leads": os.getsid(0) == os.getpgid(0) == os.getpid()}))
"""


async def test_g17_a_child_has_three_descriptors(open_engine: OpenEngine) -> None:
    """Exactly 0, 1 and 2, however many the daemon holds; stdin is /dev/null."""
    engine = await open_engine()
    others = [await engine.start("sleep 60") for _ in range(5)]
    inheritable = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    try:
        process = await engine.run(f"exec {sys.executable} -c '{LIST_DESCRIPTORS}'")
    finally:
        os.close(inheritable)
    assert json.loads(text(process.output)) == {
        "fds": [0, 1, 2],
        "stdin": "/dev/null",
        "leads": True,
    }
    for other in others:
        await engine.processes.kill(other.name)


async def test_g17_a_child_has_exactly_its_environment(open_engine: OpenEngine) -> None:
    """What the daemon was started with and the request's own, nothing of the daemon's process."""
    engine = await open_engine(variables={"KEPT": "yes", "BOTH": "inherited"})
    process = await engine.run(
        "tr '\\0' '\\n' < /proc/$$/environ", env={"BOTH": "own", "NEW": "ü\n="}
    )
    lines = text(process.output).decode().replace("ü\n=", "ü=").splitlines()
    expected = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "KEPT": "yes", "BOTH": "own"}
    assert dict(line.split("=", 1) for line in lines) == {**expected, "NEW": "ü="}


async def test_its_shell_is_that_of_the_daemon(open_engine: OpenEngine) -> None:
    """SHELL and SHELL_ARGS of the daemon choose the shell; the request's SHELL is a variable."""
    engine = await open_engine(variables={"SHELL": "bash", "SHELL_ARGS": "-e  -c"})
    process = await engine.run("false; echo not here", env={"SHELL": "/bin/none"})
    assert outcome(process) == (Status.FAILED, 1, None)
    assert text(process.output) == b""
    engine = await open_engine(variables={"SHELL": ""})
    assert (await engine.run("true")).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("variables", "spec", "reason"),
    [
        (
            {},
            {"working_dir": "/no/such"},
            "could not execute command 'x' because folder '/no/such' does not exist",
        ),
        ({}, {"working_dir": "/etc/passwd"}, "'/etc/passwd' is not a directory"),
        ({}, {"working_dir": "/etc/passwd/x"}, "folder '/etc/passwd/x' does not exist"),
        ({"SHELL": "/no/such/sh"}, {}, "fork/exec /no/such/sh: no such file or directory"),
        ({"SHELL": "nosh"}, {}, 'exec: "nosh": executable file not found in $PATH'),
        ({"SHELL": "/etc/passwd"}, {}, "fork/exec /etc/passwd: permission denied"),
        ({}, {"env": {"A": "x" * (3 << 20)}}, "argument list too long"),
        ({}, {"env": {"A": "a\0b"}}, "environment variable contains NUL"),
        ({}, {"env": {"A\0": "ab"}}, "environment variable contains NUL"),
        ({}, {"working_dir": "/" + "d" * 300}, "could not access working directory"),
    ],
)
async def test_what_cannot_be_started_says_why(
    open_engine: OpenEngine, variables: dict[str, str], spec: dict[str, Any], reason: str
) -> None:
    """The table of spec/process.md 2; nothing of a failed start stays behind."""
    engine = await open_engine(variables=variables)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FailedError) as failed:
        await engine.start("x", **spec)
    assert failed.value.message.startswith("failed to start process: ")
    assert reason in failed.value.message
    assert engine.processes.list() == []
    assert list(engine.directory.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


async def test_huge_and_impossible_commands(engine: Engine) -> None:
    """The kernel takes 128 KiB as one argument, and no NUL byte."""
    with pytest.raises(FailedError, match="argument list too long"):
        await engine.start("true " + "x" * (1 << 20))
    with pytest.raises(FailedError, match="invalid argument"):
        await engine.start("true\0false")


def files(directory: Path) -> set[Path]:
    """Everything below a directory."""
    return set(directory.rglob("*"))


@pytest.mark.parametrize("name", ["../x", "a/b", "/", "..", "123", "a b\n", "日本語", "n" * 255])
async def test_g18_a_name_is_only_a_name(engine: Engine, tmp_path: Path, name: str) -> None:
    """Any text is a name, finds its process, and never reaches a path."""
    before = files(tmp_path)
    process = await engine.run("echo hi", name=name)
    assert engine.processes.find(name) is process
    made = files(tmp_path) - before
    assert all({engine.directory, engine.records} & set(path.parents) for path in made)
    assert not any(path.name == name.rpartition("/")[2] for path in made)


@pytest.mark.parametrize("name", ["n" * 256, "ü" * 128, "a\0b"])
async def test_names_that_are_refused(engine: Engine, name: str) -> None:
    """Over 255 bytes, or with a NUL byte."""
    with pytest.raises(InvalidError, match="at most 255 bytes and no NUL byte"):
        await engine.start("true", name=name)


@pytest.mark.parametrize("variable", ["", "A=B"])
async def test_names_of_variables_that_are_refused(engine: Engine, variable: str) -> None:
    """A variable that no program could read by its name."""
    with pytest.raises(InvalidError, match="invalid env name"):
        await engine.start("true", env={variable: "x"})


async def test_a_name_in_use_is_refused(engine: Engine) -> None:
    """Numbers are names as well; a name is free again after the end."""
    for name in ("one", "123"):
        first = await engine.start("sleep 60", name=name)
        with pytest.raises(InvalidError, match=f"process with name '{name}' already exists"):
            await engine.start("true", name=name)
        await engine.processes.kill(str(first.pid))
        second = await engine.run("true", name=name)
        assert engine.processes.find(name) is second
        assert engine.processes.find(str(first.pid)) is first


async def test_a_pid_goes_before_a_name(engine: Engine) -> None:
    """An identifier is first the pid text that clients were given, then a name."""
    first = await engine.run("true", name="first")
    second = await engine.run("true", name=str(first.pid))
    assert engine.processes.find(str(first.pid)) is first
    assert engine.processes.find(str(second.pid)) is second
    assert engine.processes.find(f"0{first.pid}") is None
    assert engine.processes.find(f"+{first.pid}") is None


async def test_generated_names(engine: Engine) -> None:
    """`proc-` and eight characters; an empty name is none."""
    names = {(await engine.run("true", name="")).name for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) == 13 and name.startswith("proc-") for name in names)


async def test_g18_two_runs_of_a_name_share_no_output(engine: Engine) -> None:
    """Each run keeps its own (Q7)."""
    first = await engine.run("echo ONE", name="x")
    second = await engine.run("echo TWO", name="x")
    assert text(first.output) == b"ONE\n"
    assert text(second.output) == b"TWO\n"


async def test_the_list_is_in_order_of_start(engine: Engine) -> None:
    """Not of end, name or pid."""
    slow = await engine.start("sleep 60", name="z")
    others = [await engine.run("true", name=name) for name in ("b", "a")]
    assert engine.processes.list() == [slow, *others]
    await engine.processes.kill("z")


async def test_the_oldest_ended_are_forgotten(open_engine: OpenEngine) -> None:
    """Records are bounded; a running process is never forgotten, and logs go with records."""
    engine = await open_engine(max_records=3)
    running = await engine.start("sleep 60")
    processes = [await engine.run("echo x", name=f"p{n}") for n in range(5)]
    assert engine.processes.list() == [running, *processes[-2:]]
    assert engine.processes.find("p0") is None
    assert engine.processes.find(str(processes[0].pid)) is None
    assert len(list(engine.directory.iterdir())) == 3


async def test_redirecting_to_dev_stderr_truncates_nothing(engine: Engine) -> None:
    """`> /dev/stderr` opens the log anew; on a plain file that would destroy it."""
    command = "echo first >&2; echo second > /dev/stderr; echo third > /dev/stdout; echo last >&2"
    process = await engine.run(command)
    assert sorted(text(process.output).split()) == [b"first", b"last", b"second", b"third"]


async def test_working_directory(engine: Engine, tmp_path: Path) -> None:
    """Relative to the daemon's, `~` is its home, and what was asked for is what is shown."""
    (tmp_path / "sub").mkdir()
    for asked in ("sub", "~/sub", f"{tmp_path}//sub", f"{tmp_path}/x/../sub"):
        process = await engine.run("pwd -P", working_dir=asked)
        assert text(process.output).decode().strip() == str((tmp_path / "sub").resolve())
    assert (await engine.run("true")).working_dir == ""


async def _hammer(engine: Engine, count: int) -> list[tuple[int, int]]:
    """Run `count` processes, 16 at a time; expected and seen exit code of each."""
    codes = iter(range(count))

    async def worker() -> list[tuple[int, int]]:
        seen = []
        for number in codes:
            code = number % 256
            command = "kill -9 $$" if code == 255 else f"exit {code}"
            process = await engine.run(command, timeout_s=60)
            seen.append((-1 if code == 255 else code, process.exit_code))
        return seen

    return [
        pair for pairs in await asyncio.gather(*[worker() for _ in range(16)]) for pair in pairs
    ]


async def test_g10_exit_codes_under_load(engine: Engine) -> None:
    """1,000 fast exits, 16 at a time, each with its own code."""
    pairs = await _hammer(engine, 1000)
    assert len(pairs) == 1000
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_g10_ten_thousand_exit_codes(engine: Engine) -> None:
    """10,000 fast exits, 16 at a time, each with its own code."""
    pairs = await _hammer(engine, 10_000)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


def _held() -> tuple[int, int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(_children())


async def test_g19_execs_leave_no_descriptor_behind(engine: Engine) -> None:
    """300 commands with output later, descriptors and threads are where they were after 50."""
    for _ in range(50):
        await engine.run("echo x; echo y >&2")
    before = _held()
    for _ in range(300):
        await engine.run("echo x; echo y >&2")
    assert _held() == before


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_g19_five_thousand_execs(open_engine: OpenEngine) -> None:
    """5,000 commands later memory, descriptors and threads are where they were after 500."""
    engine = await open_engine(max_records=500)
    await _hammer(engine, 1000)
    before, memory = _held(), _resident_bytes()
    await _hammer(engine, 4500)
    assert _held() == before
    assert _resident_bytes() - memory < 8 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_g28_no_descriptors_is_an_error_of_that_start(engine: Engine) -> None:
    """With no descriptor left a start fails with its reason, leaks none, and works again later."""
    await engine.run("echo warm")
    before = sorted(os.listdir("/proc/self/fd"))
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + spare, old[1]))
        failures = []
        try:
            process = await engine.start("echo hi")
        except FailedError as exc:
            failures.append(exc.message)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, old)
        assert all("too many open files" in message for message in failures)
        assert failures or await engine.processes.wait(process, 5)
        assert sorted(os.listdir("/proc/self/fd")) == before
    process = await engine.run("echo again")
    assert process.status is Status.COMPLETED


async def test_what_is_unknown(engine: Engine) -> None:
    """Stop and kill name the identifier."""
    for end in (engine.processes.stop, engine.processes.kill):
        with pytest.raises(NotFoundError, match="process with Identifier nope not found"):
            await end("nope")
