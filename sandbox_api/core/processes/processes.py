"""The owner of all processes: starts, finds, stops and remembers them."""

import asyncio
import logging
import secrets
import string
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sandbox_api.core.environment import Environment
from sandbox_api.core.identity import FileThreads, Identity
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes import ending
from sandbox_api.core.processes.adoption import Adoptions
from sandbox_api.core.processes.budget import (
    FALLBACK_BYTES,
    KEEP_RUNNING_BYTES,
    MEMORY_BYTES,
    Budget,
)
from sandbox_api.core.processes.holder import Holder
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.process import Process, ProcessSpec, Status
from sandbox_api.core.processes.records import Records
from sandbox_api.core.processes.registry import Registry
from sandbox_api.core.processes.relay import Relay
from sandbox_api.core.processes.restore import restore_processes
from sandbox_api.core.processes.spawn import Launch, check_directory, check_spec, spawn
from sandbox_api.core.processes.stdin import Stdin, stdin_pipe
from sandbox_api.core.processes.storage import Directories, new_storage
from sandbox_api.core.processes.supervision import Supervision
from sandbox_api.core.processes.tree import ProcessStat
from sandbox_api.errors import FailedError, InvalidError, NotFoundError, os_reason

log = logging.getLogger(__name__)

STOP_ANSWER_S = 3.0
KILL_ANSWER_S = 1.0
NAME_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how many.

    Attributes:
        stop_grace_s: seconds between a stop's SIGTERM and its SIGKILL.
        max_records: processes that are remembered; the oldest ended ones go first.
        max_record_age_s: how long an ended process is remembered, in seconds.
        max_log_bytes: output of all runs together; less where it is kept in memory.
        keep_running_bytes: what a running run keeps of it even when it is too much.
    """

    stop_grace_s: float = 10.0
    max_records: int = 10_000
    max_record_age_s: float = 7 * 24 * 3600.0
    max_log_bytes: int = FALLBACK_BYTES
    keep_running_bytes: int = KEEP_RUNNING_BYTES


class Processes:
    """All processes of the daemon.

    Args:
        environment: what children inherit; SHELL and SHELL_ARGS are read from it at each start.
        identity: the workload user, or None.
        resolver: for working directories.
        directories: where runs and their records are kept, or None for memory.
        limits: bounds.
        host: what it shares with the rest of the daemon; None for one of its own.
    """

    def __init__(
        self,
        environment: Environment,
        identity: Identity | None,
        resolver: PathResolver,
        directories: Directories | None,
        limits: Limits = Limits(),
        host: Host | None = None,
    ) -> None:
        self._environment = environment
        self._identity = identity
        self._threads = FileThreads(identity)
        self._resolver = resolver
        self._directories = directories
        self._limits = limits
        self._records = Records(directories and directories.records)
        self._registry = Registry(limits.max_records, limits.max_record_age_s, self._forget)
        max_bytes = limits.max_log_bytes
        self._budget = Budget(
            max_bytes if directories else min(max_bytes, MEMORY_BYTES), limits.keep_running_bytes
        )
        self._host = host or Host()
        self._holder: Holder | None = None
        self._adoptions = Adoptions(self._host.reaper)
        self._relay = None if self._host.tell is None else Relay(self._host.tell)
        self._supervision = Supervision(
            self._begin_again, self._records.save, self._run, self._host.scale, limits.stop_grace_s
        )
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        environment: Environment,
        identity: Identity | None,
        resolver: PathResolver,
        directories: Directories | None,
        limits: Limits = Limits(),
        host: Host | None = None,
    ) -> AsyncIterator["Processes"]:
        """The process engine for as long as the context lasts; children outlive it."""
        processes = cls(environment, identity, resolver, directories, limits, host)
        try:
            if directories is not None and processes._host.holds_pipes:
                processes._holder = Holder(directories.runs, processes._host.reaper)
            await processes._host.scale.reset()
            processes._take_over()
            yield processes
        finally:
            processes.close()

    def close(self) -> None:
        """Let go of everything; children and their pipes live on."""
        self._threads.close()
        for task in self._tasks:
            task.cancel()
        self._adoptions.close()
        if self._holder is not None:
            self._holder.close()
        for process in self._registry:
            self._host.reaper.release(process.child)
            process.output.close()
            if process.stdin is not None:
                process.stdin.let_go()

    def list(self) -> Sequence[Process]:
        """Every process that is remembered, in order of start."""
        return list(self._registry)

    def find(self, identifier: str) -> Process | None:
        """The newest process whose pid text matches, else the newest of that name."""
        return self._registry.find(identifier)

    async def start(self, spec: ProcessSpec) -> Process:
        """Start a command.

        Raises:
            InvalidError: the name is in use, or something in the request cannot be passed on.
            FailedError: it could not be started; the text says why.
        """
        check_spec(spec)
        working_dir, directory = "", ""
        if spec.working_dir:
            location = self._resolver.resolve(spec.working_dir)
            working_dir, directory = location.shown, location.absolute
        await self._free_name(spec.name)
        if directory:
            await self._threads.run(check_directory, spec.command, directory)
            await self._free_name(spec.name)  # somebody may have taken it meanwhile
        name = spec.name or self._generate_name()
        process = Process(spec, name, working_dir, directory, self._new_output())
        self._prepare(process)
        try:
            self._begin(process)
        except BaseException:
            self._forget(process)
            raise
        process.pid = process.child.pid
        self._records.save(process)
        self._registry.add(process)
        self._run(self._follow(process))
        return process

    async def wait(self, process: Process, timeout_s: float | None) -> bool:
        """Wait for the end of a process, its restarts included.

        Args:
            process: which.
            timeout_s: seconds, or None for as long as it takes.

        Returns:
            Whether it has ended.
        """
        if timeout_s is None:
            await process.ended.wait()
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await process.ended.wait()
        except TimeoutError:
            return process.ended.is_set()
        return True

    async def stop(self, identifier: str) -> Process:
        """Ask a process to end: SIGTERM to its whole tree, SIGKILL after the grace.

        Returns when it has ended, or after 3 s; then `stopping` says that it has not yet.

        Raises:
            NotFoundError: no such process, or it has ended and not by a stop.
        """
        process = self._get(identifier)
        if not process.running and process.wanted_end is not Status.STOPPED:
            raise NotFoundError(f"process with Identifier {identifier} is not running")
        if process.wanted_end is None:
            process.want_end(Status.STOPPED)
            self._records.save(process)
            await ending.terminate(process)
            self._run(ending.escalate(process, self._limits.stop_grace_s))
        await self.wait(process, STOP_ANSWER_S)
        return process

    async def kill(self, identifier: str) -> tuple[Process, Sequence[ProcessStat]]:
        """End a process and its whole tree by SIGKILL, and wait for it, 1 s at most.

        Of a process that has ended, what it left behind is killed; its status stays.

        Returns:
            The process, and what survives of its tree.

        Raises:
            NotFoundError: no such process, or nothing of it is left.
        """
        process = self._get(identifier)
        if not process.running and not await ending.remains(process):
            raise NotFoundError(
                f"failed to kill process with Identifier {identifier}: no such process"
            )
        return process, await ending.kill(process, KILL_ANSWER_S)

    async def end_all(self, timeout_s: float) -> None:
        """Ask everything on the machine to end, as PID 1 must before it ends itself: SIGTERM to
        every process that there is, and a wait until the last one is gone.

        Args:
            timeout_s: seconds to wait at most.
        """
        for process in self._registry:
            if process.running and process.wanted_end is None:
                process.want_end(Status.STOPPED)
                self._records.save(process)
        if self._holder is not None:
            self._holder.close()  # it ends as well, and nobody comes after us
        await ending.terminate_all(timeout_s)
        await asyncio.sleep(0)  # those who follow a process see its end

    # -- starting

    async def _free_name(self, name: str) -> None:
        """Refuse a name in use; a process that is stopping is killed to make room for the new."""
        while name and (holder := self._registry.named(name)) is not None and holder.running:
            if not holder.stopping:
                raise InvalidError(f"process with name '{name}' already exists and is running")
            await ending.kill(holder, STOP_ANSWER_S)
            if holder.running:
                raise InvalidError(
                    f"process with name '{name}' already exists and does not end; try again"
                )

    def _generate_name(self) -> str:
        while True:
            name = "proc-" + "".join(secrets.choice(NAME_ALPHABET) for _ in range(8))
            if self._registry.named(name) is None:
                return name

    def _new_output(self) -> Output:
        try:
            storage = new_storage(self._directories and self._directories.runs, self._identity)
            return Output(storage, self._budget, self._holder)
        except OSError as exc:
            raise FailedError(
                f"failed to start process: failed to create its log pipes: {os_reason(exc)}"
            ) from None

    def _begin(self, process: Process) -> None:
        """Begin a run of a process, the first or a later one: the only place that does."""
        environment, spec = self._environment, process.spec
        shell, shell_args = environment.shell()
        launch = Launch(
            shell=shell,
            shell_args=shell_args,
            command=spec.command,
            directory=process.directory,
            environment=environment.child(spec.env, self._identity),
            identity=self._identity,
        )
        path = environment.get("PATH")
        self._records.announce(process)
        storage = process.output.storage if spec.stdin else None
        with stdin_pipe(storage, partial(self._forget_stdin, process)) as (read_fd, stdin):
            popen = spawn(launch, read_fd, *process.output.write_fds, path)
            process.begin(self._host.reaper.watch(popen), stdin)
        if self._holder is not None:
            self._holder.follow(process.output.run, process.child, process.stdin)
        if self._host.cgroups is not None and process.group is not None:
            self._host.cgroups.join(process.group, process.child)

    def _forget_stdin(self, process: Process) -> None:
        process.output.storage.forget_stdin()
        if self._holder is not None:
            self._holder.release_stdin(process.output.run)

    async def _begin_again(self, process: Process) -> None:
        """Begin a later run, unless its process was told to end."""
        if process.directory:
            await self._threads.run(check_directory, process.spec.command, process.directory)
        if process.wanted_end is None:
            self._begin(process)
            self._records.save(process)

    def _prepare(self, process: Process, *, restored: bool = False) -> None:
        """Give a process its control group, and its lines to who wants them."""
        if self._host.cgroups is not None:
            name = process.output.run or secrets.token_hex()
            process.group = self._host.cgroups.group(name, restored=restored)
        if self._relay is not None:
            self._relay.attach(process)

    async def _follow(self, process: Process) -> None:
        await self._supervision.follow(process)
        await self._leave_group(process)

    async def _leave_group(self, process: Process) -> None:
        if self._host.cgroups is not None and process.group is not None:
            process.group = await self._host.cgroups.leave(process.group, process.child)

    # -- remembering

    def _take_over(self) -> None:
        """Take over what a daemon before this one left."""
        if self._directories is None:
            return
        found = restore_processes(
            self._records,
            self._adoptions,
            self._directories,
            self._identity,
            self._budget,
            self._holder,
        )
        for process in found:
            self._registry.add(process)
            self._prepare(process, restored=True)
            if process.running:
                self._take_over_stdin(process)
                self._run(self._follow(process))
            elif process.group is not None and process.group.used:
                self._run(self._leave_group(process))
            else:
                process.group = None
            if process.stopping:
                self._run(ending.escalate(process, self._limits.stop_grace_s))

    def _take_over_stdin(self, process: Process) -> None:
        if process.spec.stdin and (fd := process.output.storage.reopen_stdin()) is not None:
            process.stdin = Stdin(fd, partial(self._forget_stdin, process))
        if self._holder is not None:
            self._holder.follow(process.output.run, process.child, process.stdin)

    def _forget(self, process: Process) -> None:
        self._records.forget(process.output.run)
        process.output.discard()

    # -- below

    def _get(self, identifier: str) -> Process:
        process = self.find(identifier)
        if process is None:
            raise NotFoundError(f"process with Identifier {identifier} not found")
        return process

    def _run(self, work: Coroutine[None, None, None]) -> None:
        """Work that belongs to the engine, not to the request that began it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("process supervision failed", exc_info=exc)
