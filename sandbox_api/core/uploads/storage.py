"""Part files: where they are made, and one part while it is written and hashed.

Everything here blocks: run it on file threads, as the workload user unless a place is private.
"""

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from sandbox_api.core.atomic import NO_TEMPORARY, unlink_quietly
from sandbox_api.core.linux import preallocate, punch_hole
from sandbox_api.core.paths import RESERVED_PREFIX
from sandbox_api.core.ranges import copy_range
from sandbox_api.core.refusals import operation
from sandbox_api.core.uploads.session import Part, Place

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600
_MAX_RESERVED_BYTES = 64 << 20


def file_prefix(session_id: str) -> str:
    """How the names of all files of a session begin."""
    return f"{RESERVED_PREFIX}upload-{session_id}-"


def create_file(directory: str, session_id: str) -> tuple[int, str]:
    """Make a new file of a session in a directory; returns its descriptor and its path.

    Raises:
        OSError: the system refuses.
    """
    path = os.path.join(directory, file_prefix(session_id) + secrets.token_hex(4))
    return os.open(path, _CREATE, _PRIVATE), path


def create_near(target: str, session_id: str) -> tuple[int, str] | None:
    """Make it in the nearest directory of the target that exists; None where none can be made.

    Raises:
        OSError: the disk is full, or the like.
    """
    directory = os.path.dirname(os.path.realpath(target))
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    try:
        return create_file(directory, session_id)
    except OSError as exc:
        if exc.errno not in NO_TEMPORARY:
            raise
        return None


def open_place(place: Place) -> int:
    """Open a file that a session has made.

    Raises:
        OSError: FileNotFoundError when somebody has deleted it.
    """
    return os.open(place.path, _OPEN)


def hold_file(path: str) -> int:
    """Keep a file from being freed when its name goes: of a large one that takes long.

    Returns a descriptor that only can be closed, -1 where there is no such file.
    """
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1


def remove_files(paths: list[str]) -> None:
    """Remove files where that is possible."""
    for path in paths:
        unlink_quietly(path)


def remove_part(part: Part) -> None:
    """Give back the space of a part that is not needed any more, where that is possible."""
    if not part.place.shared:
        unlink_quietly(part.place.path)
        return
    with suppress(OSError):
        fd = open_place(part.place)
        try:
            _punch(fd, part.place.offset, part.size)
        finally:
            os.close(fd)


def remove_strays(directory: str, session_id: str, known: frozenset[str]) -> None:
    """Remove files of a session that it does not know: it died while they were written."""
    prefix = file_prefix(session_id)
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.path not in known:
                unlink_quietly(entry.path)


def find_lost(parts: list[Part]) -> list[Part]:
    """The parts whose bytes are not there any more, since somebody deleted or cut their file."""
    sizes = {path: _size(path) for path in {part.place.path for part in parts}}
    return [
        part
        for part in parts
        if part.size and sizes[part.place.path] < part.place.offset + part.size
    ]


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return -1


def _punch(fd: int, offset: int, count: int) -> None:
    if count:
        with suppress(OSError):  # a file system without holes: the space is lost until the end
            punch_hole(fd, offset, count)


class PartFile:
    """One part while it is written; safe to discard while a write is under way.

    Args:
        name: path of the upload's target, for errors.
        fd: open for reading and writing; it is closed in any case.
        place: where the part begins.
        slot_bytes: how much room there is in the body; a larger part moves to a file of its own.
        create: makes that file.
    """

    def __init__(
        self,
        name: str,
        fd: int,
        place: Place,
        slot_bytes: int,
        create: Callable[[], tuple[int, str]],
    ) -> None:
        self._name = name
        self.place = place
        self.size = 0
        self._reserved = 0
        self._fd = fd
        self._slot_bytes = slot_bytes
        self._create = create
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._lock = threading.Lock()
        self._kept = False

    @property
    def etag(self) -> str:
        """Of the bytes so far."""
        return self._md5.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            FailedError: `write A: …`, as when the disk is full.
        """
        with self._lock, operation("write", self._name):
            if self._fd < 0:
                raise OSError(errno.EBADF, "the upload was given up")
            if self.place.shared and self.size + len(data) > self._slot_bytes:
                self._move_out()
            self._write(data)
            self._md5.update(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self.place.offset + self.size)
            self.size += written
            view = view[written:]

    def reserve(self, size: int) -> None:
        """Give blocks to bytes that will come.

        When a file takes another's name ext4 finds a place for each byte that has none yet
        (auto_da_alloc, ext4(5)): 100 ms for 256 MB, while the client waits for the answer.
        """
        with self._lock, suppress(OSError):  # a promise is no reason to fail
            self._reserved = min(size, _MAX_RESERVED_BYTES)
            preallocate(self._fd, self.place.offset, self._reserved)

    def _move_out(self) -> None:
        fd, path = self._create()
        try:
            copy_range(self._fd, fd, self.place.offset, self.size)
        except OSError:
            os.close(fd)
            unlink_quietly(path)
            raise
        _punch(self._fd, self.place.offset, max(self.size, self._reserved))
        os.close(self._fd)
        self._fd, self.place = fd, Place(path, self.place.private)

    def keep(self) -> None:
        """The part has arrived: its bytes stay."""
        with self._lock:
            self._kept = True

    def discard(self) -> None:
        """Close; the bytes are given back unless they are to be kept. Does nothing twice."""
        with self._lock:
            if self._fd < 0:
                return
            if not self._kept and self.place.shared:
                _punch(self._fd, self.place.offset, max(self.size, self._reserved))
            elif not self._kept:
                unlink_quietly(self.place.path)
            os.close(self._fd)
            self._fd = -1
