"""What must outlive the daemon: one small file for each process, written anew at each change.

A record is replaced by rename, so a reader sees the old or the new one. It is not synced: a crash
of the daemon loses nothing, a loss of power may (design.md 4).
"""

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
        self._announced: dict[str, tuple[int, int]] = {}  # descriptor and length of the record

    def announce(self, process: Process) -> None:
        """Say that a run of a process is about to begin: should the daemon die before `save`, the
        next one looks for it, and does not begin it again."""
        run, data = process.output.run, self._data(process, 0, ticks_since_boot())
        with self._one_warning():
            if data:
                self._announced[run] = _replace(f"{self._directory}/{run}", data), len(data)

    def save(self, process: Process) -> None:
        """Write a process's record; one whose output is kept in memory has none."""
        run, data = process.output.run, self._data(process, process.child.pid, process.child.start)
        with self._one_warning():
            if data and not self._patch(run, data):
                os.close(_replace(f"{self._directory}/{run}", data))

    def _data(self, process: Process, child_pid: int, child_start: int) -> bytes:
        """A record as it is saved; nothing where it cannot be."""
        run = process.output.run
        if self._directory is None or not run:
            return b""
        same = {name: getattr(process, name) for name in _SAME}
        end = process.output.end
        record = Record(
            run=run,
            boot=self._boot,
            child_pid=child_pid,
            child_start=child_start,
            end=end,
            **same,
        )
        # pydantic's own JSON takes no path that is not UTF-8
        return json.dumps(_RECORD.dump_python(record, mode="json")).encode()

    def _patch(self, run: str, data: bytes) -> bool:
        """Write over a record that was announced, which takes a tenth of the time of a new file. It
        is one write to one page, which no signal can tear (a SIGKILL of the daemon, say).

        Returns:
            Whether that was possible.
        """
        fd, length = self._announced.pop(run, (-1, 0))
        if fd < 0:
            return False
        try:
            return len(data) <= PAGE_BYTES and os.pwrite(fd, data.ljust(length), 0) >= len(data)
        except OSError:
            return False
        finally:
            os.close(fd)

    @contextmanager
    def _one_warning(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if not self._refused:
                self._refused = True
                log.warning("process records cannot be written: %s", exc)

    def forget(self, run: str) -> None:
        """Remove a record, if there is one.

        Args:
            run: the name of its run's directory; empty where it is kept in memory.
        """
        fd, _ = self._announced.pop(run, (-1, 0))
        if fd >= 0:
            os.close(fd)
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
            for path in self._directory.glob("*.new"):
                with suppress(OSError):
                    path.unlink()

    def same_boot(self, record: Record) -> bool:
        """Whether its pids can still mean the same processes."""
        return bool(self._boot) and record.boot == self._boot


def read_boot_id() -> str:
    """The kernel's boot id; empty without /proc."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _replace(path: str, data: bytes) -> int:
    """Write a file anew; returns its descriptor."""
    temporary = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        _write_whole(fd, data)
        os.rename(temporary, f"{path}.json")
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_whole(fd: int, data: bytes) -> None:
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
