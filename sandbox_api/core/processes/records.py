"""What must outlive the daemon: one small file for each process, written anew at each change.

A change is one write to one page, or else a rename, so a daemon that comes sees the old record or
the new one. It is not synced: a crash of the daemon loses nothing, a loss of power may
(design.md 4).
"""

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from sandbox_api.core.processes.journal import Position
from sandbox_api.core.processes.process import Process, ProcessSpec, Status
from sandbox_api.core.processes.reaper import Exit
from sandbox_api.core.processes.storage import RUN_NAME
from sandbox_api.core.processes.tree import ticks_since_boot

log = logging.getLogger(__name__)

PAGE_BYTES = 4096
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A process as it is saved; what is not explained here is a field of `Process`.

    Attributes:
        run: the name of its directory.
        boot: the kernel's boot id when this was saved.
        child_pid: of the current run's first process; 0 for a run that is about to begin.
        child_start: when that began, in clock ticks since boot, or a moment before that.
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


_RECORD = TypeAdapter(Record)
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

    def announce(self, process: Process) -> None:
        """Say that a run of a process is about to begin: should the daemon die before `save`, the
        next one looks for it, and does not begin it again."""
        self._write(process, 0, ticks_since_boot())

    def save(self, process: Process) -> None:
        """Write a process's record; one whose output is kept in memory has none."""
        self._write(process, process.child.pid, process.child.start)

    def _write(self, process: Process, child_pid: int, child_start: int) -> None:
        run = process.output.run
        if self._directory is None or not run:
            return
        path, data = f"{self._directory}/{run}.json", self._data(process, child_pid, child_start)
        try:
            if not _overwrite(path, data):
                _replace(path, data)
        except OSError as exc:
            if not self._refused:
                self._refused = True
                log.warning("process records cannot be written: %s", exc)

    def _data(self, process: Process, child_pid: int, child_start: int) -> bytes:
        same = {name: getattr(process, name) for name in _SAME}
        record = Record(
            run=process.output.run,
            boot=self._boot,
            child_pid=child_pid,
            child_start=child_start,
            end=process.output.end,
            **same,
        )
        # pydantic's own JSON takes no path that is not UTF-8
        return json.dumps(_RECORD.dump_python(record, mode="json")).encode()

    def forget(self, run: str) -> None:
        """Remove a record, if there is one.

        Args:
            run: the name of its run's directory; empty where it is kept in memory.
        """
        if self._directory is not None and run:
            with suppress(OSError):
                os.unlink(f"{self._directory}/{run}.json")

    def load(self) -> Iterator[Record]:
        """All records, oldest first; one that cannot be read is told and left alone."""
        for run in self.runs():
            try:
                with open(f"{self._directory}/{run}.json", "rb") as file:
                    record = _RECORD.validate_python(json.load(file))
            except (OSError, ValueError, RecursionError) as exc:
                log.warning("the record of run %s is not readable: %s", run, exc)
                continue
            if record.run == run:
                yield record
            else:
                log.warning("the record of run %s is one of run %s", run, record.run)

    def runs(self) -> Sequence[str]:
        """The runs that have a record, readable or not, oldest first."""
        if self._directory is None:
            return []
        stems = (name.removesuffix(".json") for name in os.listdir(self._directory))
        return sorted(stem for stem in stems if RUN_NAME.fullmatch(stem))

    def clean(self) -> None:
        """Remove what a daemon that died has half-written."""
        if self._directory is not None:
            for name in os.listdir(self._directory):
                if name.endswith(".new"):
                    with suppress(OSError):
                        (self._directory / name).unlink()

    def same_boot(self, record: Record) -> bool:
        """Whether its pids can still mean the same processes."""
        return bool(self._boot) and record.boot == self._boot


def read_boot_id() -> str:
    """The kernel's boot id; empty without /proc."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _overwrite(path: str, data: bytes) -> bool:
    """Write over a record, if there is one and both fit into a page: then no signal can tear the
    write, not even a SIGKILL of the daemon. To rename over a file takes ext4 some ms on a busy
    disk, for it writes the new one out (`auto_da_alloc`, ext4(5)).

    Returns:
        Whether it was possible.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = max(len(data), os.fstat(fd).st_size)
        return size <= PAGE_BYTES and os.pwrite(fd, data.ljust(size), 0) == size
    except OSError:
        return False
    finally:
        os.close(fd)


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)
    os.rename(temporary, path)
