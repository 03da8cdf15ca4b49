"""A small process that holds the pipes of all runs, so that what they hold outlives the daemon.

The kernel drops a pipe, and the bytes in it, with its last holder. A program that writes and ends
while no daemon lives would lose what was not read yet. So the daemon hands the reading end of each
pipe to a process that it starts with the first run that lasts, and that does nothing while the
daemon lives. When the daemon has died, however that came, it waits for the last writer of each pipe
and saves what the pipe still holds. It ends with the last pipe, or when the next daemon has taken
the pipes over: that one first makes it hold still, since only one may take bytes from a pipe.

It has no file open but the pipes, and is no part of any run: it only reads.
"""

import asyncio
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sandbox_api.core import linux
from sandbox_api.core.processes import holding
from sandbox_api.core.processes.journal import Kind
from sandbox_api.core.processes.reaper import Child, Exit, Reaper
from sandbox_api.core.processes.stdin import Stdin
from sandbox_api.core.processes.tree import read_stat
from sandbox_api.errors import os_reason

log = logging.getLogger(__name__)

SOCKET_PREFIX = ".holder-"
HOLD_AFTER_S = 0.02  # most runs are over by then, and a message costs as much as a small command
ANSWER_S = 2.0
OWN_PROGRAM = "/proc/self/exe"  # what runs, even when its name has been given to another file
_MOST_FDS = 1 << 16
_MOST_PATH_BYTES = 100  # of a socket's name (unix(7))

Pipes = Callable[[], Mapping[Kind, int]]


@dataclass(slots=True)
class _Soon:
    """What will be held of a run."""

    timer: asyncio.TimerHandle
    pipes: Pipes
    child: Child | None = None
    stdin: Stdin | None = None


class Holder:
    """The daemon's end: tells the holder what to hold, and starts it with the first run that lasts.

    Args:
        directory: where all runs are kept.
        reaper: waits for its end.

    Attributes:
        path: of the socket where the next daemon finds it.
        pid: its own; None while there is none.
    """

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.path = directory / f"{SOCKET_PREFIX}{secrets.token_hex(4)}"
        self.pid: int | None = None
        self._reaper = reaper
        self._control: socket.socket | None = None
        self._refused = False
        self._loop = asyncio.get_running_loop()
        self._soon: dict[str, _Soon] = {}
        self._given: set[str] = set()

    def hold(self, run: str, pipes: Pipes) -> None:
        """Hold the pipes of a run as well, if they are not released soon. Never waits; what cannot
        be handed over is not held.

        Args:
            run: its name.
            pipes: tells the reading ends that are open.
        """
        timer = self._loop.call_later(HOLD_AFTER_S, self._give, run)
        self._soon[run] = _Soon(timer, pipes)

    def follow(self, run: str, child: Child, stdin: Stdin | None) -> None:
        """Hold what belongs to the child of a run: its stdin, so that this does not end with the
        daemon, and a pidfd, to say how it ended (Linux 6.15).

        Args:
            run: its name.
            child: one that was not waited for.
            stdin: where a client may write to it.
        """
        if not run:  # it is kept in memory, and nothing of it is left without the daemon
            return
        soon = self._soon.get(run)
        if soon is None:  # a later run of a process, whose pipes are held already
            timer = self._loop.call_later(HOLD_AFTER_S, self._give, run)
            soon = self._soon[run] = _Soon(timer, dict)
        soon.child, soon.stdin = child, stdin
        if stdin is not None:  # what a client writes to is no small command
            self._give(run)

    def release(self, run: str) -> None:
        """The pipes of a run have no writer any more, and are read."""
        if run in self._soon:
            self._soon.pop(run).timer.cancel()
        if run in self._given:
            self._given.remove(run)
            self._tell(run)

    def release_stdin(self, run: str) -> None:
        """Nobody will write to the stdin of a run any more."""
        if run in self._given:
            self._tell(f"{run} -{holding.STDIN}")

    def close(self) -> None:
        """The daemon ends: from now on the holder is on its own. The pipes must still be open."""
        self.flush()
        if self._control is not None:
            self._control.close()

    def flush(self) -> None:
        """Hold now what is to be held soon."""
        for run in list(self._soon):
            self._give(run)

    def _ended(self, exited: "asyncio.Future[Exit]") -> None:
        if not exited.cancelled() and self._control is not None and self._control.fileno() >= 0:
            log.warning(
                "the process that holds pipes has ended; output may be lost with the daemon"
            )

    def _tell(self, message: str) -> None:
        if self._control is not None:
            with suppress(OSError):  # it holds a descriptor too long, or has ended
                self._control.send(message.encode())

    def _give(self, run: str) -> None:
        soon = self._soon.pop(run)
        soon.timer.cancel()
        if (control := self._connected()) is None:
            return
        try:
            _send(control, run, soon)
            self._given.add(run)
        except BlockingIOError:  # the holder has not come to read yet
            soon.timer = self._loop.call_later(HOLD_AFTER_S, self._give, run)
            self._soon[run] = soon
        except OSError:  # it has ended, or holds all that it can
            pass

    def _connected(self) -> socket.socket | None:
        """A connection to it; it is started where it was not yet. None where that is not possible,
        which the next run tries again; one log line says so."""
        if self._control is None:
            try:
                self._control = self._start()
            except OSError as exc:
                if not self._refused:
                    self._refused = True
                    reason = os_reason(exc)
                    log.warning("what pipes hold when the daemon dies will be lost: %s", reason)
        return self._control

    def _start(self) -> socket.socket:
        with ExitStack() as undo, ExitStack() as its_ends:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.enter_context(ours)
            its_ends.enter_context(theirs)
            listener = its_ends.enter_context(_listen(self.path))
            undo.callback(self.path.unlink, missing_ok=True)
            runs_fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            its_ends.callback(os.close, runs_fd)
            self.pid = pid = _start(theirs, listener, runs_fd)
            undo.pop_all()
        ours.setblocking(False)
        stat = read_stat(pid)
        child = self._reaper.watch_child(pid, stat.start if stat else 0)
        child.exited.add_done_callback(self._ended)
        return ours


def _send(control: socket.socket, run: str, soon: _Soon) -> None:
    held = {holding.STREAMS[kind]: fd for kind, fd in soon.pipes().items()}
    if soon.stdin is not None and soon.stdin.open:
        held[holding.STDIN] = soon.stdin.fileno()
    child = soon.child
    with ExitStack() as stack:
        if child is not None and not child.exited.done():
            with suppress(OSError):  # a kernel before 5.3
                held[exit_name(child.pid, child.start)] = pidfd = os.pidfd_open(child.pid)
                stack.callback(os.close, pidfd)
        socket.send_fds(control, [" ".join([run, *held]).encode()], list(held.values()))


def exit_name(pid: int, start: int) -> str:
    """The file in the directory of a run that says how a child of it ended."""
    return f"{holding.EXIT}{pid}-{start}"


def _start(control: socket.socket, listener: socket.socket, runs_fd: int) -> int:
    """Start the program; as a fork where a daemon that has given up its rights may not run one.

    Returns:
        Its pid.

    Raises:
        OSError: no more processes or descriptors.
    """
    try:
        return _run([control.fileno(), listener.fileno(), runs_fd])
    except OSError:
        return _fork(control, listener, runs_fd)


def _run(fds: Collection[int]) -> int:
    """Run it from its source by a bare interpreter. In the one-file build there is neither: what
    runs knows the program by its name (`__main__`); a file of the same path may be of another
    version by now."""
    numbers = map(str, fds)
    with ExitStack() as stack:
        program: IO[bytes] | int
        try:
            program = stack.enter_context(open(holding.__file__, "rb"))
        except OSError:
            program, executable, command = subprocess.DEVNULL, OWN_PROGRAM, [holding.NAME, *numbers]
        else:  # through stdin: its command line does not look like the daemon's
            executable = sys.executable or ""
            command = [executable, "-I", "-S", "-", *numbers]
        child = subprocess.Popen(  # noqa: S603 - our own program
            command,
            executable=executable,
            stdin=program,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            pass_fds=fds,
            start_new_session=True,
        )
    child.returncode = 0  # only the reaper waits for it
    return child.pid


def _fork(control: socket.socket, listener: socket.socket, runs_fd: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        gc.disable()  # a collection would touch, and so copy, all pages that it shares
        _leave_the_daemon({control.fileno(), listener.fileno(), runs_fd})
        holding.hold(control, listener, runs_fd)
    finally:
        os._exit(0)


def _leave_the_daemon(kept: Collection[int]) -> None:
    """Let go of its session, signals, descriptors and name."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    standard = range(3)
    for fd in standard:
        os.dup2(nothing, fd)
    for fd in _open_fds():
        if fd not in kept and fd not in standard:
            with suppress(OSError):
                os.close(fd)
    os.chdir("/")
    with suppress(OSError, ValueError):
        linux.rename_process(holding.NAME.encode())


def _open_fds() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return list(range(min(most, _MOST_FDS)))


@contextmanager
def held_still(directory: Path, but: Holder | None) -> Iterator[None]:
    """While the context lasts, holders of daemons before this one take nothing from their pipes;
    then they end.

    Args:
        directory: where all runs are kept.
        but: this daemon's own.
    """
    own = None if but is None else but.path
    with ExitStack() as stack:
        names = [name for name in os.listdir(directory) if name.startswith(SOCKET_PREFIX)]
        others = [path for name in names if (path := directory / name) != own]
        found = [(path, connection) for path in others if (connection := _connect(path))]
        for _, connection in found:
            stack.enter_context(connection)
        yield
        for path, connection in found:
            with suppress(OSError):
                connection.send(holding.NOT_NEEDED)
                path.unlink()


def _connect(path: Path) -> socket.socket | None:
    """A connection to a holder that holds still; None where there is none any more."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_S)
        with _short(path) as name:
            connection.connect(name)
        if connection.recv(1) == holding.HOLDS_STILL:
            return connection
    except (ConnectionError, FileNotFoundError):  # it has ended
        with suppress(OSError):
            path.unlink()
    except OSError as exc:
        log.warning("output of the time without a daemon may be incomplete: %s", os_reason(exc))
    connection.close()
    return None


def _listen(path: Path) -> socket.socket:
    """A socket for a holder, in a directory that may be open to others."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # the name gets the mode of the socket (unix(7))
        with _short(path) as name:
            listener.bind(name)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of a socket that fits into its address, wherever it lies."""
    if len(os.fsencode(path)) <= _MOST_PATH_BYTES:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
