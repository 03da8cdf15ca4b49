"""Where a run keeps its pipes, logs and journal: a directory on disk, or memory.

On disk the pipes have names, so that a daemon started later can find them again. Memory is for
when no directory is writable: nothing survives the daemon, and each stream keeps 1 MiB.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from sandbox_api.core.identity import Identity
from sandbox_api.core.linux import F_SETPIPE_SZ, first_data

PIPE_BYTES = 1 << 20
STDIN_NAME = "stdin.pipe"
MEMORY_LOG_BYTES = 1 << 20
BLOCK_BYTES = 512  # of st_blocks, whatever the file system (inode(7))
RUN_NAME = re.compile("[0-9a-f]{16}-[0-9a-f]{6}")


class Directories(NamedTuple):
    """Where all runs are kept.

    Attributes:
        runs: has a directory for each run, with its pipes and its output.
        records: has a record for each run.
        exclusive: nobody else ever keeps runs in the first without records in the second.
    """

    runs: Path
    records: Path
    exclusive: bool = True


class PipeEnds(NamedTuple):
    """Both descriptors of a pipe; ours does not wait, the child's does."""

    read_fd: int
    write_fd: int


class Storage(Protocol):
    """What a run needs from the place where it is kept."""

    max_bytes: int | None
    """The most that each stream may hold, where the place itself demands a bound."""

    @property
    def run(self) -> str:
        """The name of the run's directory; empty in memory."""

    def open_pipe(self, name: str) -> PipeEnds:
        """A new pipe for one stream of the child."""

    def open_file(self, name: str) -> int:
        """A descriptor of a file of the run, created when it is missing."""

    def reopen_pipe(self, name: str) -> PipeEnds | None:
        """The reading end of a pipe that an ended run left; None when it is gone."""

    def extent(self, name: str) -> tuple[int, int]:
        """The first byte of a file that is still there, and its size."""

    def open_stdin(self) -> PipeEnds:
        """A new pipe for the child's stdin: the child's end, and ours to write without waiting."""

    def reopen_stdin(self) -> int | None:
        """Our end of that pipe, from a daemon before this one; None when it is closed."""

    def forget_stdin(self) -> None:
        """Nobody will write to it any more."""

    def rests(self, name: str) -> Iterable[tuple[int, bytes]]:
        """What holders have saved for a log, and where in it that belongs."""

    def forget_rests(self, name: str) -> None:
        """What holders have saved for a log is in it."""

    def close_pipe(self, name: str) -> None:
        """Nobody needs the pipe's name any more."""

    def remove(self) -> None:
        """Forget the run."""


class RunDirectory:
    """A run's directory below the state directory. Its name does not derive from the user's.

    Args:
        path: the directory; it exists.
        identity: the workload user, who must be able to open the pipes again (`> /dev/stderr`).
    """

    __slots__ = ("_identity", "_path")
    max_bytes: int | None = None

    def __init__(self, path: Path | str, identity: Identity | None) -> None:
        self._path = str(path)  # a Path keeps and interns all its parts, for each of thousands
        self._identity = identity

    @classmethod
    def create(cls, parent: Path, identity: Identity | None) -> "RunDirectory":
        """Make the directory of a new run; names sort by time.

        Raises:
            OSError: the disk is full, or the like.
        """
        path = f"{parent}/{time.time_ns():016x}-{secrets.token_hex(3)}"
        os.mkdir(path, 0o700)
        return cls(path, identity)

    @property
    def run(self) -> str:
        """The name of the directory."""
        return os.path.basename(self._path)

    def _file(self, name: str) -> str:
        return f"{self._path}/{name}"

    def open_pipe(self, name: str) -> PipeEnds:
        """Make a named pipe; the child's end is open for reading as well, so that it gets no
        SIGPIPE while no daemon is alive (fifo(7))."""
        path = self._file(name)
        with suppress(FileExistsError):  # made by a daemon before this one
            try:
                os.mkfifo(path, 0o600)
            except FileNotFoundError:  # somebody has removed the directory since
                os.makedirs(self._path, 0o700)
                os.mkfifo(path, 0o600)
        write_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            read_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(write_fd)
            raise
        return _prepare(PipeEnds(read_fd, write_fd), self._identity)

    def open_file(self, name: str) -> int:
        """A private file of the run; where somebody has removed the directory, it is made anew."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self._file(name), flags, 0o600)
        except FileNotFoundError:
            os.makedirs(self._path, 0o700)
            return os.open(self._file(name), flags, 0o600)

    def reopen_pipe(self, name: str) -> PipeEnds | None:
        """Open what children of the ended run may still write to."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            return PipeEnds(os.open(self._file(name), flags), -1)
        except OSError:
            return None

    def extent(self, name: str) -> tuple[int, int]:
        """What lies before the first data was cut for space (lseek(2), SEEK_DATA)."""
        try:
            status = os.lstat(self._file(name))
            if status.st_blocks * BLOCK_BYTES >= status.st_size:  # no hole, as of most
                return 0, status.st_size
            fd = os.open(self._file(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0, 0
        try:
            return first_data(fd), os.fstat(fd).st_size
        finally:
            os.close(fd)

    def open_stdin(self) -> PipeEnds:
        """A named pipe. Only the child reads it: so we are told when it has gone."""
        path = self._file(STDIN_NAME)
        self.forget_stdin()
        os.mkfifo(path, 0o600)
        read_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            write_fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(read_fd)
            raise
        os.set_blocking(read_fd, True)
        if self._identity is not None:
            with suppress(OSError):
                os.fchown(read_fd, self._identity.uid, self._identity.gid)
        return PipeEnds(read_fd, write_fd)

    def reopen_stdin(self) -> int | None:
        """Open it where somebody reads it (ENXIO, fifo(7))."""
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(self._file(STDIN_NAME), flags)
        except OSError:
            return None

    def forget_stdin(self) -> None:
        """Remove its name."""
        self.close_pipe(STDIN_NAME)

    def rests(self, name: str) -> Iterator[tuple[int, bytes]]:
        """What holders have saved: see `holding.save_rest`."""
        for path in self._rests(name):
            with suppress(OSError, ValueError), open(path, "rb") as file:
                yield int(path.rpartition("-")[2]), file.read()

    def forget_rests(self, name: str) -> None:
        """Remove the files."""
        for path in self._rests(name):
            with suppress(OSError):
                os.unlink(path)

    def saved_status(self, name: str) -> int | None:
        """The wait status that a holder has saved; None where there is none."""
        with suppress(OSError, ValueError), open(self._file(name), "rb") as file:
            return int(file.read(PIPE_BYTES))
        return None

    def _rests(self, name: str) -> list[str]:
        prefix = name.replace(".log", ".rest-")
        with suppress(OSError):
            return [entry.path for entry in os.scandir(self._path) if entry.name.startswith(prefix)]
        return []

    def close_pipe(self, name: str) -> None:
        """Remove the pipe's name."""
        with suppress(OSError):
            os.unlink(self._file(name))

    def remove(self) -> None:
        """Remove the directory and what is in it."""
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._path):
                os.unlink(entry.path)
            os.rmdir(self._path)


class RunMemory:
    """A run kept in memory: unnamed pipes and memfd files."""

    max_bytes: int | None = MEMORY_LOG_BYTES
    run = ""

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    def open_pipe(self, name: str) -> PipeEnds:
        """An unnamed pipe."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        return _prepare(PipeEnds(read_fd, write_fd), self._identity)

    def open_file(self, name: str) -> int:
        """A file without a name in any file system (memfd_create(2))."""
        return os.memfd_create(name, os.MFD_CLOEXEC)

    def reopen_pipe(self, name: str) -> PipeEnds | None:
        """Nothing outlives the daemon."""
        return None

    def extent(self, name: str) -> tuple[int, int]:
        """Nothing outlives the daemon."""
        return 0, 0

    def open_stdin(self) -> PipeEnds:
        """An unnamed pipe."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write_fd, False)
        return PipeEnds(read_fd, write_fd)

    def reopen_stdin(self) -> int | None:
        """Nothing outlives the daemon."""
        return None

    def forget_stdin(self) -> None:
        """Nothing has a name."""

    def rests(self, name: str) -> Iterable[tuple[int, bytes]]:
        """Nothing outlives the daemon."""
        return ()

    def forget_rests(self, name: str) -> None:
        """Nothing outlives the daemon."""

    def close_pipe(self, name: str) -> None:
        """Nothing has a name."""

    def remove(self) -> None:
        """Nothing outlives its descriptors."""


def _prepare(pipe: PipeEnds, identity: Identity | None) -> PipeEnds:
    """Give a pipe to the workload user and make it 1 MiB large; over an unprivileged user's limit
    it stays as it is (pipe(7))."""
    with suppress(OSError):
        if identity is not None:
            os.fchown(pipe.write_fd, identity.uid, identity.gid)
        fcntl.fcntl(pipe.write_fd, F_SETPIPE_SZ, PIPE_BYTES)
    return pipe


def new_storage(parent: Path | None, identity: Identity | None) -> Storage:
    """A place for a new run: below `parent`, or in memory where that is not possible now."""
    if parent is not None:
        with suppress(OSError):
            space = os.statvfs(parent)
            if space.f_bavail or not space.f_blocks:  # a tmpfs without a limit counts no blocks
                return RunDirectory.create(parent, identity)
    return RunMemory(identity)
