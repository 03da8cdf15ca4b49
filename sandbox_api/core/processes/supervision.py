"""The life of one process: its limits, its restarts, its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace

from sandbox_api.core.keepalive import ScaleFile
from sandbox_api.core.processes import ending
from sandbox_api.core.processes.process import Process, Status
from sandbox_api.core.processes.reaper import Exit
from sandbox_api.errors import FailedError

RESTART_PAUSE_S = 1.0


class Supervision:
    """Follows processes from their start to their end, over restarts.

    Args:
        begin: begins the next run of a process, unless that was told to end.
        save: told of each change that must outlive the daemon.
        run: work that goes on when a process has ended.
        scale: counts the processes that keep the sandbox awake.
        stop_grace_s: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        begin: Callable[[Process], Awaitable[None]],
        save: Callable[[Process], None],
        run: Callable[[Coroutine[None, None, None]], None],
        scale: ScaleFile,
        stop_grace_s: float,
    ) -> None:
        self._begin = begin
        self._save = save
        self._run_apart = run
        self._scale = scale
        self._stop_grace_s = stop_grace_s

    async def follow(self, process: Process) -> None:
        """Wait for the end of a process, enforcing its limits and its restart policy."""
        if process.spec.keep_alive:
            await self._scale.hold()
        exit_ = await self._run(process)
        while process.restarts_after(exit_) and await self._restart(process, exit_):
            exit_ = await self._run(process)
        self._finish(process, exit_)
        if process.spec.keep_alive:
            await self._scale.release()

    async def _run(self, process: Process) -> Exit:
        """Wait for the end of one run; a run over its limit is ended."""
        exited = process.child.exited
        limit_s = process.spec.run_limit_s
        left_s = None if limit_s is None else process.started_at + limit_s - time.time()
        done, _ = await asyncio.wait([exited], timeout=left_s and max(left_s, 0.0))
        if not done and not process.stopping:  # else its end is on its way
            await self._end_overdue(process)
        exit_ = await asyncio.shield(exited)
        if process.stdin is not None:
            process.stdin.close()
        return exit_

    async def _end_overdue(self, process: Process) -> None:
        process.timed_out = True
        process.want_end(Status.KILLED)
        self._save(process)
        if process.spec.max_runtime_s == process.spec.run_limit_s:
            await ending.terminate(process)
            self._run_apart(ending.escalate(process, self._stop_grace_s))
        else:
            await ending.kill_remains(process, ending.KILL_DEADLINE_S)

    async def _restart(self, process: Process, exit_: Exit) -> bool:
        """Run it again after a pause. A stop or kill during the pause cancels that."""
        if not process.restarting:  # else a daemon before this one announced it
            self._announce_restart(process, exit_)
        if await self._wanted_within(process, RESTART_PAUSE_S):
            return False
        return await self._start_again(process)

    def _announce_restart(self, process: Process, exit_: Exit) -> None:
        process.restart_count += 1
        limit = process.spec.max_restarts
        process.output.note(
            f"\n[Process failed with exit code {exit_.code}. Attempting restart "
            f"{process.restart_count}/{'unlimited' if limit < 0 else limit}...]\n".encode()
        )
        process.last_exit, process.restarting = exit_, True
        self._save(process)

    async def _wanted_within(self, process: Process, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                await process.wanted.wait()
        except TimeoutError:
            return process.wanted.is_set()  # both may come at once
        return True

    async def _start_again(self, process: Process) -> bool:
        """Begin the next run; False when it cannot begin, or shall not any more."""
        try:
            await self._begin(process)
        except FailedError as exc:
            process.output.note(f"\n[Failed to restart process: {exc.message}]\n".encode())
            return False
        return not process.restarting

    def _finish(self, process: Process, exit_: Exit) -> None:
        process.output.finish()
        process.status = process.judge(exit_)
        process.last_exit = exit_
        process.completed_at, process.restarting = time.time(), False
        process.spec = replace(process.spec, env={})  # it may hold secrets, and no run needs it now
        self._save(process)
        process.ended.set()
