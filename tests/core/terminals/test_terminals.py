"""Terminal sessions: real shells, several clients, slow ones, and every end."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.core.identity import Identity
from sandbox_api.core.processes.tree import read_stat
from sandbox_api.core.terminals import terminal as terminal_module
from sandbox_api.core.terminals.terminal import BEHIND_BYTES
from sandbox_api.errors import ConflictError, FailedError, NotFoundError
from tests.core.terminals.conftest import Desk, OpenDesk

NOBODY = Identity(65534, 65534, (65534,), "nobody", "/")


async def until(check: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_shell_on_a_terminal(desk: Desk) -> None:
    """It leads its own session, whose terminal is its stdin, of the size that was asked for."""
    terminal, reader = await desk.shell(cols=100, rows=30)
    await terminal.write(b"stty size; tty; echo $TERM; ps -o sid= -p $$; echo pid $$ d''one\n")
    text = (await reader.until(b" done\r\n")).decode()
    assert "30 100" in text
    assert "/dev/pts/" in text
    assert "xterm-256color" in text
    pid = terminal.shell.child.pid
    assert f"pid {pid} done" in text
    stat = read_stat(pid)
    assert stat is not None
    assert stat.session == stat.group == pid


async def test_control_c_reaches_the_program(desk: Desk) -> None:
    """The terminal is the controlling one: keys are signals, and job control works."""
    terminal, reader = await desk.shell()
    await terminal.write(b"cat\nx\n")
    await reader.until(b"\nx\r\nx\r\n")
    await terminal.write(b"\x03")
    await reader.until(b"^C\r\n$ ")
    await terminal.write(b"echo status $?\n")
    assert b"status 130" in await reader.until(b"status 130")
    assert terminal.exit is None


async def test_a_resize_is_a_signal(desk: Desk) -> None:
    """Programs that draw learn of it."""
    terminal, reader = await desk.shell()
    await terminal.write(b"trap 'stty size' WINCH; echo ready\n")
    await reader.until(b"\nready")
    terminal.resize(120, 40)
    await terminal.write(b"\n")
    await reader.until(b"40 120")
    terminal.resize(0, 10)
    assert (terminal.cols, terminal.rows) == (120, 40)


async def test_who_comes_later_sees_what_was(desk: Desk) -> None:
    """A page that is loaded again has its history, and its size counts."""
    terminal, first = await desk.shell(identifier="s")
    await terminal.write(b"echo one two\n")
    await first.until(b"\none two")
    first.view.close()
    again, second = await desk.open(identifier="s", shell="/nope", cols=132, rows=50)
    assert again is terminal
    assert (terminal.cols, terminal.rows) == (132, 50)
    assert (await second.until(b"\none two")).startswith(b"\x1b[0m")


async def test_all_clients_see_all(desk: Desk) -> None:
    """Both may type."""
    terminal, first = await desk.shell()
    _, second = await desk.open()
    assert terminal.clients == 2
    await terminal.write(b"echo hello $((40 + 2))\n")
    await first.until(b"hello 42")
    await second.until(b"hello 42")


async def test_the_end_of_the_shell(desk: Desk) -> None:
    """Its last output comes, then the end; whoever comes next gets a new shell."""
    terminal, reader = await desk.shell()
    await terminal.write(b"echo last words; exit 3\n")
    assert (await reader.until_end()).endswith(b"last words\r\n")
    assert terminal.exit is not None
    assert terminal.exit.code == 3
    await until(lambda: not desk.terminals.list())
    new, _ = await desk.open()
    assert new.shell.child.pid != terminal.shell.child.pid


async def test_jobs_end_with_their_terminal(desk: Desk, tmp_path: Path) -> None:
    """Those that ignore SIGHUP too; what has left the session on purpose lives on."""
    terminal, reader = await desk.shell()
    await terminal.write(
        b"(trap '' HUP; exec sleep 300) & stubborn=$!\n"
        b"setsid sleep 300 & echo $stubborn > pids; sleep 0.2; pgrep -nf 'sleep 300' >> pids\n"
        b"exit\n".replace(b"pids", os.fsencode(tmp_path / "pids"))
    )
    await reader.until_end()
    await terminal.ended
    stubborn, gone = map(int, (tmp_path / "pids").read_text().split())
    stat = read_stat(stubborn)
    assert stat is None or stat.dead
    os.kill(gone, signal.SIGKILL)


async def test_a_session_is_ended_by_name(desk: Desk) -> None:
    """Its shell and all that it runs; its clients see the end."""
    terminal, reader = await desk.shell(identifier="a")
    await terminal.write(b"trap '' HUP; echo ready; sleep 300\n")
    await reader.until(b"\nready")
    await desk.terminals.end("a")
    await reader.until_end()
    assert terminal.exit is not None
    assert terminal.exit.signal == "SIGKILL"
    with pytest.raises(NotFoundError, match="'a' not found"):
        await desk.terminals.end("a")


async def test_there_are_only_so_many(open_desk: OpenDesk) -> None:
    """One more is refused, and says what to do; the others are there as before."""
    desk = await open_desk(max_sessions=1)
    await desk.open(identifier="a")
    with pytest.raises(ConflictError, match="DELETE /terminal/sessions"):
        await desk.open(identifier="b")
    await desk.open(identifier="a")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"shell": "/nope"}, "fork/exec /nope: no such file or directory"),
        ({"shell": "bash -l"}, 'exec: "bash -l": executable file not found'),
        ({"working_dir": "/nope"}, "folder '/nope' does not exist"),
    ],
)
async def test_a_shell_that_cannot_start(desk: Desk, spec: dict[str, str], reason: str) -> None:
    """It is said why, and nothing is left behind."""
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FailedError) as caught:
        await desk.open(**spec)
    assert reason in caught.value.message
    assert not desk.terminals.list()
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_g01_a_client_that_stalls_holds_nobody_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reads, one does not: the one that reads gets all; the other is told what it missed."""
    monkeypatch.setattr(terminal_module, "STALLED_S", 0.05)
    terminal, live = await desk.shell()
    _, stalled = await desk.open()
    await terminal.write(b"seq 200000; echo the end\n")
    text = await live.until(b"\nthe end")
    assert b"skipped" not in text
    assert text.count(b"\r\n") > 200_000
    late = await stalled.until(b"\nthe end")
    assert b"bytes skipped" in late
    assert len(late) < 400_000


async def test_one_slow_client_loses_nothing(desk: Desk) -> None:
    """The program waits for it: bounded memory, and every line."""
    terminal, slow = await desk.shell()
    await terminal.write(b"seq 100000; echo the end\n")
    await until(lambda: terminal.history.end > BEHIND_BYTES)
    numbers = (await slow.until(b"\nthe end")).decode().split("\r\n")
    start = numbers.index("1")
    assert numbers[start : start + 100_000] == [str(i) for i in range(1, 100_001)]


async def test_nobody_looks_and_it_goes_on(desk: Desk) -> None:
    """A build goes on when the page is closed."""
    terminal, reader = await desk.shell()
    reader.view.close()
    await terminal.write(b"seq 100000; echo the end\n")
    await until(lambda: terminal.history.read(terminal.history.end - 14, 14).endswith(b"\n$ "))
    _, again = await desk.open()
    assert b"skipped" not in await again.until(b"the end")


async def test_who_is_forgotten(open_desk: OpenDesk) -> None:
    """Without clients and output it ends; with a client it does not."""
    desk = await open_desk(idle_s=0.3)
    kept, _ = await desk.open(identifier="kept")
    left, reader = await desk.open(identifier="left")
    await reader.until(b"$ ")
    reader.view.close()
    await until(lambda: left.exit is not None)
    assert kept.exit is None


async def test_a_password_is_hidden(desk: Desk) -> None:
    """What is not shown must not be in the audit; a shell's own line editor shows it."""
    terminal, _ = await desk.shell()
    assert not terminal.hides_input
    await terminal.write(b"stty -echo; read secret\n")
    await until(lambda: terminal.hides_input)


async def test_a_large_paste_waits(desk: Desk) -> None:
    """A program that reads late gets every byte."""
    terminal, reader = await desk.shell()
    await terminal.write(b"stty raw -echo; echo ready; sleep 0.2; head -c 200000 | md5sum\n")
    await reader.until(b"ready\n")
    data = b"0123456789" * 20_000
    await terminal.write(data)
    assert hashlib.md5(data).hexdigest().encode() in await reader.until(b"  -")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_g29_the_workload_user(open_desk: OpenDesk) -> None:
    """Shell and terminal are that user's."""
    desk = await open_desk(identity=NOBODY)
    terminal, reader = await desk.shell(working_dir="/")
    await terminal.write(b"id -u; stat -c '%u %a' $(tty); echo $HOME $USER; cat /etc/shadow\n")
    text = (await reader.until(b"shadow: Permission denied")).decode()
    assert "65534\r\n65534 600\r\n/ nobody\r\n" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_g29_a_directory_that_is_closed_to_the_user(
    open_desk: OpenDesk, tmp_path: Path
) -> None:
    """A shell does not begin where its user may not go."""
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    desk = await open_desk(identity=NOBODY)
    with pytest.raises(FailedError, match="permission denied"):
        await desk.open(working_dir=str(closed))
