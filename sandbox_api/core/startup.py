"""The command of `-c`: started once with the daemon, and no process of the API.

It runs in `/` with the daemon's own stderr for its output, and lives on when the daemon ends
(spec/system.md 3).
"""

import asyncio
import logging
import subprocess
import sys

from sandbox_api.core.environment import Environment
from sandbox_api.core.identity import Identity
from sandbox_api.core.processes.host import Host
from sandbox_api.core.processes.reaper import Child, Reaper
from sandbox_api.core.processes.spawn import Launch, spawn

GROUP = "startup-command"

log = logging.getLogger(__name__)


class StartupCommand:
    """The running command.

    Args:
        child: its shell.
        reaper: who waits for it.
    """

    def __init__(self, child: Child, reaper: Reaper) -> None:
        self._child = child
        self._reaper = reaper
        self._task = asyncio.create_task(self._report(child))

    @classmethod
    def start(
        cls, command: str, environment: Environment, identity: Identity | None, host: Host
    ) -> "StartupCommand":
        """Start it.

        Args:
            command: a line for the shell.
            environment: what it inherits; SHELL and SHELL_ARGS are read from it.
            identity: the workload user, or None.
            host: who waits for it, and has a control group for it.

        Raises:
            FailedError: the shell cannot be started.
        """
        shell, shell_args = environment.shell()
        launch = Launch(
            shell=shell,
            shell_args=shell_args,
            command=command,
            directory="/",
            environment=environment.child({}, identity),
            identity=identity,
        )
        stderr = sys.stderr.fileno()
        popen = spawn(launch, subprocess.DEVNULL, stderr, stderr, environment.get("PATH"))
        child = host.reaper.watch(popen)
        if host.cgroups is not None:
            host.cgroups.join(host.cgroups.group(GROUP), child)
        return cls(child, host.reaper)

    async def _report(self, child: Child) -> None:
        end = await child.exited
        if end.code == 0:
            log.info("Command completed successfully")
        elif end.signal:
            log.error("Command exited with error: signal: %s", end.signal)
        else:
            log.error("Command exited with error: exit status %d", end.code)

    def close(self) -> None:
        """Let go of it; it lives on."""
        self._task.cancel()
        self._reaper.release(self._child)
