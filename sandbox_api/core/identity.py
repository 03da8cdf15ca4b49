"""The workload user: who the sandbox's commands and file operations act as.

Without one, everything runs as the daemon. With one, every program is started as that user, and
every file operation runs on threads that carry the user's file identity (spec/system.md 10, G29).
"""

import asyncio
import grp
import pwd
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from sandbox_api.core import linux
from sandbox_api.errors import InvalidError

P = ParamSpec("P")
T = TypeVar("T")

FILE_THREADS = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """An unprivileged user: numeric ids, and what HOME, USER and LOGNAME say."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str


def resolve_identity(spec: str) -> Identity:
    """Resolve `name`, `uid`, `name:group` or `uid:gid` (the syntax of Docker's USER).

    A numeric uid that /etc/passwd does not know is accepted: its name is its number, its home `/`.

    Raises:
        InvalidError: no such user or group, or uid 0.
    """
    user, _, group = spec.strip().partition(":")
    entry = _passwd_entry(user)
    if entry is None and not (user.isascii() and user.isdigit()):
        raise InvalidError(f'Invalid --user="{spec}": no such user')
    if entry is not None:
        uid, gid, name, home = entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir
    else:
        uid, gid, name, home = int(user), int(user), user, "/"
    if uid == 0:
        raise InvalidError(
            f'--user="{spec}" resolves to uid 0; the workload identity must be unprivileged'
        )
    if group:
        gid = _group_id(group, spec)
        groups: tuple[int, ...] = (gid,)
    else:
        groups = _supplementary_groups(entry, gid)
    return Identity(uid, gid, groups, name, home or "/")


def _passwd_entry(user: str) -> pwd.struct_passwd | None:
    try:
        if user.isascii() and user.isdigit():
            return pwd.getpwuid(int(user))
        return pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None


def _group_id(group: str, spec: str) -> int:
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidError(f'Invalid --user="{spec}": no such group') from None


def _supplementary_groups(entry: pwd.struct_passwd | None, gid: int) -> tuple[int, ...]:
    if entry is None:
        return (gid,)
    named = (g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem)
    return tuple(dict.fromkeys((gid, *named)))


class FileThreads:
    """The threads on which blocking file work runs, as the workload user where there is one.

    Args:
        identity: the workload user, or None for the daemon's own.
        count: how many threads.

    Attributes:
        closing: set when the daemon stops: what may run for long looks at it and ends.
    """

    def __init__(self, identity: Identity | None, count: int = FILE_THREADS) -> None:
        self.identity = identity
        self.closing = False
        self._pool = ThreadPoolExecutor(count, "files", initializer=self._take_identity)

    def _take_identity(self) -> None:
        if self.identity is not None:
            who = self.identity
            linux.set_thread_identity(who.uid, who.gid, who.groups)

    @property
    def inline(self) -> bool:
        """Whether short work may run on the event loop: only as the daemon's own user."""
        return self.identity is None

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` on a file thread and wait for its result.

        A caller that is cancelled does not cancel the work: it ends on its thread, so a write is
        whole or did not happen.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Let queued work go; running work ends by itself."""
        self.closing = True
        self._pool.shutdown(wait=False, cancel_futures=True)
