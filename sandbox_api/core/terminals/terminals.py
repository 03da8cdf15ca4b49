"""The owner of all terminals."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sandbox_api.core.environment import Environment
from sandbox_api.core.identity import FileThreads
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes.reaper import Reaper
from sandbox_api.core.processes.spawn import Launch, check_directory, spawn
from sandbox_api.core.tasks import Tasks
from sandbox_api.core.terminals.pty import Pty
from sandbox_api.core.terminals.terminal import Shell, Terminal, View
from sandbox_api.errors import ConflictError, FailedError, NotFoundError

SHELLS = ("/bin/zsh", "/bin/bash", "/bin/sh", "/bin/ash")
TERM = "xterm-256color"
IDLE_S = 600.0
UNSEEN_S = 24 * 3600.0
DEFAULT_SIZE = (80, 24)
DEFAULT_IDENTIFIER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalSpec:
    """What a client asks for.

    Attributes:
        identifier: of the session, new or not.
        shell: a program's path or name; empty for the default one. A session that is there keeps
            its own, and its directory.
        working_dir: empty for the daemon's own.
        cols: width in characters; a session that is there takes the size of who comes, unless
            one of the two is 0.
        rows: height.
    """

    identifier: str = DEFAULT_IDENTIFIER
    shell: str = ""
    working_dir: str = ""
    cols: int = DEFAULT_SIZE[0]
    rows: int = DEFAULT_SIZE[1]


class Terminals:
    """All terminal sessions.

    A session goes on without clients. It ends with its shell, or when for ten minutes nobody has
    looked at it and nothing was written, or for a day nobody has looked at it.

    Args:
        environment: what shells inherit; SHELL is read from it.
        threads: where directories are looked at; theirs is the workload user.
        resolver: for working directories.
        reaper: waits for shells.
        max_sessions: how many there may be.
        idle_s: when a session without clients and without output ends, in seconds.
    """

    def __init__(
        self,
        environment: Environment,
        threads: FileThreads,
        resolver: PathResolver,
        reaper: Reaper,
        max_sessions: int,
        idle_s: float = IDLE_S,
    ) -> None:
        self._environment = environment
        self._threads = threads
        self._resolver = resolver
        self._reaper = reaper
        self._max_sessions = max_sessions
        self._idle_s = idle_s
        self._terminals: dict[str, Terminal] = {}
        self._timers: dict[Terminal, asyncio.TimerHandle] = {}
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Terminals"]:
        """All of them, while the context lasts; then their shells get SIGHUP."""
        try:
            yield self
        finally:
            for terminal in list(self._terminals.values()):
                self._forget(terminal)
                self._reaper.release(terminal.shell.child)
                terminal.close()

    def list(self) -> Sequence[Terminal]:
        """The sessions, in order of start."""
        return list(self._terminals.values())

    async def attach(self, spec: TerminalSpec) -> tuple[Terminal, View]:
        """Look at a session; one that is not there begins.

        Raises:
            ConflictError: there are too many.
            FailedError: its shell cannot be started; the text says why.
            InvalidError: the working directory is no path.
        """
        directory = ""
        if spec.working_dir and spec.identifier not in self._terminals:
            directory = self._resolver.resolve(spec.working_dir).absolute
            await self._threads.run(check_directory, spec.shell, directory)
        terminal = self._terminals.get(spec.identifier)  # it may have begun meanwhile
        if terminal is None:
            terminal = self._begin(spec, directory)
        else:
            terminal.resize(spec.cols, spec.rows)
        return terminal, terminal.attach()

    async def end(self, identifier: str) -> None:
        """End a session and everything in it.

        Raises:
            NotFoundError: there is none.
        """
        terminal = self._terminals.get(identifier)
        if terminal is None:
            raise NotFoundError(
                f"terminal session '{identifier}' not found; GET /terminal/sessions lists them"
            )
        await terminal.hang_up()

    # -- starting

    def _begin(self, spec: TerminalSpec, directory: str) -> Terminal:
        if len(self._terminals) >= self._max_sessions:
            raise ConflictError(
                f"there are {len(self._terminals)} terminal sessions already, the most that is "
                "allowed; end one with DELETE /terminal/sessions/{id}, or raise "
                "SANDBOX_MAX_TERMINALS"
            )
        size = (spec.cols or DEFAULT_SIZE[0], spec.rows or DEFAULT_SIZE[1])
        pty, program_side = Pty.open(self._threads.identity)
        try:
            pty.resize(*size)
            shell = self._start_shell(spec.shell, directory, program_side)
        except BaseException:
            pty.close()
            raise
        finally:
            os.close(program_side)
        terminal = Terminal(spec.identifier, shell, pty, size)
        terminal.on_views = lambda: self._expect_end(terminal)
        self._terminals[spec.identifier] = terminal
        self._tasks.start(self._follow(terminal))
        return terminal

    def _start_shell(self, shell: str, directory: str, program_side: int) -> Shell:
        program = shell or self._default_shell()
        environment = self._environment.child({}, self._threads.identity)
        environment.setdefault("TERM", TERM)
        launch = Launch(
            shell=program,
            shell_args=(),
            command=None,
            directory=directory,
            environment=environment,
            identity=self._threads.identity,
            terminal=True,
        )
        path = self._environment.get("PATH")
        popen = spawn(launch, program_side, program_side, program_side, path)
        child = self._reaper.watch(popen)
        return Shell(program=program, directory=directory or os.getcwd(), child=child)

    def _default_shell(self) -> str:
        path = self._environment.get("PATH", os.defpath)
        for shell in (self._environment.get("SHELL"), *SHELLS):
            if shell and shutil.which(shell, path=path):
                return shell
        raise FailedError(
            f"no shell: none of {', '.join(SHELLS)} is in this image; name one with ?shell="
        )

    # -- ending

    async def _follow(self, terminal: Terminal) -> None:
        await asyncio.shield(terminal.shell.child.exited)
        self._forget(terminal)  # who comes now gets a new one
        await asyncio.shield(terminal.ended)

    def _forget(self, terminal: Terminal) -> None:
        terminal.on_views = None
        if (timer := self._timers.pop(terminal, None)) is not None:
            timer.cancel()
        if self._terminals.get(terminal.identifier) is terminal:
            del self._terminals[terminal.identifier]

    def _expect_end(self, terminal: Terminal) -> None:
        """A client came or left: begin to wait for the end of a session that nobody looks at."""
        if (timer := self._timers.pop(terminal, None)) is not None:
            timer.cancel()
        if not terminal.clients:
            unseen_until = time.time() + UNSEEN_S
            self._look_later(terminal, self._idle_s, unseen_until)

    def _look_later(self, terminal: Terminal, delay_s: float, unseen_until: float) -> None:
        self._timers[terminal] = self._loop.call_later(delay_s, self._look, terminal, unseen_until)

    def _look(self, terminal: Terminal, unseen_until: float) -> None:
        now = time.time()
        left_s = min(terminal.active_at + self._idle_s, unseen_until) - now
        if left_s > 0:
            self._look_later(terminal, left_s, unseen_until)
        else:
            self._timers.pop(terminal, None)
            self._tasks.start(terminal.hang_up())
