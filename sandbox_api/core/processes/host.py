"""What the process engine shares with the rest of the daemon, and with the machine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from sandbox_api.core.keepalive import ScaleFile
from sandbox_api.core.processes.cgroup import Cgroups
from sandbox_api.core.processes.oom import OomKills
from sandbox_api.core.processes.reaper import Reaper
from sandbox_api.core.processes.relay import Tell


def _no_scale_file() -> ScaleFile:
    return ScaleFile("", counting=False)


def _no_cgroups() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Host:
    """Owners of things of which a process has only one.

    Attributes:
        reaper: waits for all children.
        open_cgroups: makes `cgroups` when they are first asked for.
        scale: counts the processes that keep the sandbox awake.
        tell: is given each line of output; None where nobody wants them.
        holds_pipes: whether a process may be started that holds the pipes when the daemon dies.
    """

    reaper: Reaper = field(default_factory=Reaper)
    open_cgroups: Callable[[], Cgroups | None] = _no_cgroups
    scale: ScaleFile = field(default_factory=_no_scale_file)
    tell: Tell | None = None
    holds_pipes: bool = False

    @cached_property
    def cgroups(self) -> Cgroups | None:
        """The groups of processes; None where none can be made."""
        return self.open_cgroups()


@contextmanager
def open_host(name: str, scale: ScaleFile, tell: Tell | None) -> Iterator[Host]:
    """All of them, while the context lasts; children outlive it.

    Args:
        name: of this daemon among those on the same machine.
        scale: counts the processes that keep the sandbox awake.
        tell: is given each line of output; None where nobody wants them.
    """
    with ExitStack() as stack:
        oom_kills = OomKills.nearest()
        stack.callback(oom_kills.close)
        reaper = Reaper(oom_kills)
        stack.callback(reaper.close)

        def open_cgroups() -> Cgroups | None:
            cgroups = Cgroups.open(name, reaper)
            if cgroups is not None:
                stack.callback(cgroups.close)
            return cgroups

        yield Host(
            reaper=reaper, open_cgroups=open_cgroups, scale=scale, tell=tell, holds_pipes=True
        )
