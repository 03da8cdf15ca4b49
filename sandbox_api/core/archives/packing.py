"""A directory as a tar archive, piece by piece.

GNU format: every tar reads it, that of busybox too, with names of any length and any bytes.
Everything here blocks: run it on file threads.
"""

import errno
import io
import os
import stat
import tarfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterator

from sandbox_api.core.metadata import OwnerNames
from sandbox_api.core.mounts import is_made_up, read_made_up
from sandbox_api.core.regular import READ_FLAGS
from sandbox_api.core.walk import Walk

PIECE_BYTES = 512 << 10
MAX_INPUT_BYTES = 16 << 20  # per piece, however well it is compressed
READ_BYTES = 1 << 20

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
}
_PACKED = frozenset({*_TYPES.values(), tarfile.LNKTYPE})
_END = bytes(2 * tarfile.BLOCKSIZE)
_GZIP = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 1  # three times as fast as the usual 6, for a tenth more bytes


class Packing:
    """One archive of what is below a directory, in the order of a walk.

    Links are packed as links, a file of several names once. Fifos, sockets and devices are left
    out, and so is what cannot be read. What the kernel makes up, as in /proc, is packed as it reads
    now, up to 16 MiB a file.

    Args:
        root: absolute; names are relative to it.
        compressed: whether to compress by gzip.
        owners: names of users and groups.
        stopped: asked now and then whether to end early.
    """

    def __init__(
        self, root: str, *, compressed: bool, owners: OwnerNames, stopped: Callable[[], bool]
    ) -> None:
        self._cut = len(root.rstrip("/")) + 1
        self._owners = owners
        self._walk = Walk(root, stopped=stopped)
        self._unreadable = 0
        self._linked: dict[tuple[int, int], str] = {}
        self._blocks = self._archive()
        self._ended = False
        self._lock = threading.Lock()
        self._encode: Callable[[bytes], bytes] = bytes
        self._flush: Callable[[], bytes] = bytes
        if compressed:
            stream = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
            self._encode, self._flush = stream.compress, stream.flush

    @property
    def left_out(self) -> int:
        """How many files and directories could not be read so far."""
        return self._unreadable + self._walk.unreadable

    def read(self) -> bytes | None:
        """The next piece, which may be empty; None at the end.

        Raises:
            OSError: the root cannot be read, or a file any further.
        """
        with self._lock:
            return None if self._ended else b"".join(self._piece())

    def _piece(self) -> Iterator[bytes]:
        taken = given = 0
        while given < PIECE_BYTES and taken < MAX_INPUT_BYTES:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                yield self._flush()
                return
            encoded = self._encode(block)
            taken += len(block)
            given += len(encoded)
            yield encoded

    def close(self) -> None:
        """Give back what is open. Waits for another thread that is reading."""
        with self._lock:
            self._ended = True
            self._blocks.close()

    def _archive(self) -> Generator[bytes, None, None]:
        for entry in self._walk:
            try:
                info = self._describe(entry)
                file = _open(entry.path, info) if info.isreg() else None
            except FileNotFoundError:
                continue  # it vanished meanwhile
            except OSError:
                self._unreadable += 1
                continue
            if info.type in _PACKED:
                yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            if file is not None:
                with file:
                    yield from _content(file, info.size)
        yield _END

    def _describe(self, entry: os.DirEntry[str]) -> tarfile.TarInfo:
        status = entry.stat(follow_symlinks=False)
        info = tarfile.TarInfo(entry.path[self._cut :])
        info.type = _TYPES.get(stat.S_IFMT(status.st_mode), tarfile.FIFOTYPE)
        info.mode = stat.S_IMODE(status.st_mode)
        info.mtime = status.st_mtime_ns // 1_000_000_000
        info.uid, info.gid = status.st_uid, status.st_gid
        info.uname, info.gname = self._owners.user(info.uid), self._owners.group(info.gid)
        if info.issym():
            info.linkname = os.readlink(entry.path)
        elif info.isreg() and status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), info.name)
            if first != info.name:
                info.type, info.linkname = tarfile.LNKTYPE, first
        return info


def _open(path: str, info: tarfile.TarInfo) -> io.RawIOBase | io.BytesIO:
    """Open a regular file, and note its size."""
    file = io.FileIO(os.open(path, READ_FLAGS | os.O_NOFOLLOW), "rb")
    try:
        status = _regular_status(file)
        info.size = status.st_size
        if not is_made_up(status):
            return file
        content = read_made_up(file.fileno())
        info.size = len(content)
    except BaseException:
        file.close()
        raise
    file.close()
    return io.BytesIO(content)


def _regular_status(file: io.FileIO) -> os.stat_result:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):  # it was replaced since the look at it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return status


def _content(file: io.RawIOBase | io.BytesIO, size: int) -> Iterator[bytes]:
    """As many bytes as the header says, and what fills the last block.

    A file that became longer is cut, one that became shorter is filled up with zeros.
    """
    left = size
    while left:
        data = file.read(min(left, READ_BYTES)) or bytes(min(left, READ_BYTES))
        left -= len(data)
        yield data
    yield bytes(-size % tarfile.BLOCKSIZE)
