"""The scale-to-zero file: tells the platform that a sandbox must stay awake (spec/process.md 6).

`=0` resets the platform's count when the daemon starts, `+` adds one for a process that keeps the
sandbox awake, `-` takes it away, exactly once, however the process ends.
"""

import asyncio
import fcntl
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

RUN_LIMIT_S = 600  # how old a run becomes that keeps the sandbox awake, where nobody says
DISABLED = "keepAlive is not available for this sandbox: it is not included in your current plan"

LOCK_WAIT_S = 1.0
LOCK_RETRY_S = 0.01


class ScaleFile:
    """The platform's counter of reasons to stay awake.

    Args:
        path: of the file; where its directory is missing, or for an empty path, nothing is ever
            written.
        counting: whether `+` and `-` are written (BL_DISABLE_KEEPALIVE turns them off).
    """

    def __init__(self, path: str, *, counting: bool) -> None:
        self._path = path
        self._counting = counting
        self._present = bool(path) and Path(path).parent.is_dir()
        self._order = asyncio.Lock()

    async def reset(self) -> None:
        """No process keeps the sandbox awake."""
        await self._write(b"=0")

    async def hold(self) -> None:
        """One more process does."""
        if self._counting:
            await self._write(b"+")

    async def release(self) -> None:
        """One process less does."""
        if self._counting:
            await self._write(b"-")

    async def _write(self, payload: bytes) -> None:
        if not self._present:
            return
        async with self._order:  # in the order in which they were asked for
            await asyncio.to_thread(self._write_locked, payload)

    def _write_locked(self, payload: bytes) -> None:
        """At offset 0, without truncation, under a lock: what the platform's file expects."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not _lock(fd):
                    log.warning("[Scale] %s stays locked, writing all the same", self._path)
                os.pwrite(fd, payload, 0)
            finally:
                os.close(fd)
        except OSError as exc:
            log.warning(
                "[Scale] writing %s to %s failed: %s", payload.decode(), self._path, exc.strerror
            )


def _lock(fd: int) -> bool:
    """Take the lock, waiting a while: a process must not hang on whoever never gives it back."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_RETRY_S)
        else:
            return True
