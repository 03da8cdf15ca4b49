"""What must outlive the daemon: one small file for each process, written anew at each change.

A record is replaced by rename, so a reader sees the old or the new one. It is not synced: a crash
of the daemon loses nothing, a loss of power may (design.md 4).
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from sandbox_api.core.processes.journal import Position
from sandbox_api.core.processes.process import Process, ProcessSpec, Status
from sandbox_api.core.processes.reaper import Exit

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A process as it is saved; what is not explained here is a field of `Process`.

    Attributes:
        run: the name of its directory.
        boot: the kernel's boot id when this was saved.
        child_pid: of the current run's first process.
        child_start: when that began, in clock ticks since boot.
        end: where its output ended; None while it runs.
    """

    run: str
    boot: str
    child_pid: int
    child_start: int
    end: Position | None
    spec: ProcessSpec
    name: str
    working_dir: str
    directory: str
    pid: int
    started_at: float
    completed_at: float | None
    status: Status
    last_exit: Exit | None
    restart_count: int
    restarting: bool
    wanted_end: Status | None
    timed_out: bool


_JSON = TypeAdapter(Record)
_SAME = frozenset(Record.__dataclass_fields__) - {"run", "boot", "child_pid", "child_start", "end"}


class Records:
    """The records of one daemon.

    Args:
        directory: private; None where nothing can be kept.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._boot = read_boot_id()
        self._refused = False

    def save(self, process: Process) -> None:
        """Write a process's record; one whose output is kept in memory has none."""
        run = process.output.run
        if self._directory is None or not run:
            return
        data = _JSON.dump_json(_record(process, run, self._boot))
        try:
            _replace(self._directory / f"{run}.json", data)
        except OSError as exc:
            if not self._refused:
                self._refused = True
                log.warning("process records cannot be written: %s", exc)

    def forget(self, process: Process) -> None:
        """Remove a process's record."""
        if self._directory is not None and process.output.run:
            with suppress(OSError):
                (self._directory / f"{process.output.run}.json").unlink()

    def load(self) -> Iterator[Record]:
        """All records, oldest first; one that cannot be read is told and left alone."""
        if self._directory is None:
            return
        for path in sorted(self._directory.glob("*.json")):
            try:
                yield _JSON.validate_json(path.read_bytes())
            except (OSError, ValueError) as exc:
                log.warning("process record %s is not readable: %s", path.name, exc)

    def same_boot(self, record: Record) -> bool:
        """Whether its pids can still mean the same processes."""
        return bool(self._boot) and record.boot == self._boot


def read_boot_id() -> str:
    """The kernel's boot id; empty without /proc."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)
    temporary.rename(path)


def _record(process: Process, run: str, boot: str) -> Record:
    return Record(
        run=run,
        boot=boot,
        child_pid=process.child.pid,
        child_start=process.child.start,
        end=process.output.end,
        **{name: getattr(process, name) for name in _SAME},
    )
