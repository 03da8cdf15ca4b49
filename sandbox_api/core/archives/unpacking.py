"""The members of an archive as files below a directory, and nowhere else (G25).

A symlink is what the archive says, wherever it leads: a virtual environment's `bin/python` leads to
/usr/bin. It harms nobody, since nothing is ever written through one that leads out: each member's
directory is looked at before it is written. A file takes the place of a link, as with tar(1).

Everything here blocks: run it on file threads.
"""

import errno
import os
import posixpath
import stat
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from sandbox_api.core.archives.parsing import Member, TarParser
from sandbox_api.core.atomic import AtomicFile, make_directories
from sandbox_api.core.below import Below, refuse_file, relative_name
from sandbox_api.core.entries import replace_entry
from sandbox_api.core.paths import DEFAULT_DIRECTORY_MODE, printable
from sandbox_api.core.refusals import operation
from sandbox_api.errors import FailedError, SandboxError

INFLATED_BYTES = 1 << 20  # at once: what is compressed may be a thousand times larger

_PERMISSIONS = 0o777  # set-id bits would be of another owner
_USABLE = 0o700  # what a directory needs so that it can be filled
_LINKABLE = frozenset({stat.S_IFREG, stat.S_IFLNK})
_GZIP = 16 + zlib.MAX_WBITS


class Unpacking:
    """One archive, unpacked while it arrives.

    Files are whole or not there, with the mode and time that the archive tells; owners are not
    taken over. A name that leads out, by itself or through a link, ends it, and so does what is no
    file, link or directory.

    Args:
        root: absolute; a directory.
        compressed: whether it comes compressed by gzip.
        sync: whether each file waits for the disk.

    Attributes:
        entries: members that are there, the directory itself not counted.
        bytes: of content of files that are there.
    """

    def __init__(self, root: str, *, compressed: bool, sync: bool) -> None:
        self.entries = 0
        self.bytes = 0
        self._below = Below(root)
        self._sync = sync
        self._parser = TarParser(self)
        self._inflate = _Inflate() if compressed else None
        self._lock = threading.Lock()
        self._member: Member | None = None
        self._counts = True
        self._target = ""
        self._file: AtomicFile | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the archive.

        Raises:
            FailedError: with a field `entries`; what came before is there.
        """
        with self._lock:
            self._explain(lambda: self._feed(data))

    def finish(self) -> None:
        """The archive has come as a whole.

        Raises:
            FailedError: it is cut off; with a field `entries`.
        """
        with self._lock:
            self._explain(self._parser.close)
            if self._inflate is not None:
                self._explain(self._inflate.close)

    def discard(self) -> None:
        """Give up a file that is not whole. Waits for another thread that is at work."""
        with self._lock:
            if self._file is not None:
                self._file.discard()
                self._file = None

    def _feed(self, data: bytes) -> None:
        if self._inflate is None:
            self._parser.feed(data)
            return
        for piece in self._inflate.pieces(data):
            self._parser.feed(piece)

    def _explain(self, work: Callable[[], None]) -> None:
        try:
            work()
        except SandboxError as exc:
            name = "" if self._member is None else f"{printable(self._member.name)}: "
            message = f"error unpacking archive: {name}{exc.message}"
            raise type(exc)(message, {"entries": self.entries}) from exc

    def begin(self, member: Member) -> None:
        """A member begins; what has no content is made at once."""
        self._member = member
        self._file = None
        relative = _member_name(member.name)
        self._counts = relative != ""
        if not relative:
            if member.kind != tarfile.DIRTYPE:
                raise FailedError("is a directory")
        elif member.kind == tarfile.DIRTYPE:
            self._make_directory(relative, member)
        elif member.kind == tarfile.SYMTYPE:
            self._make_symlink(relative, member)
        elif member.kind == tarfile.LNKTYPE:
            self._make_hard_link(relative, member)
        elif member.kind in tarfile.REGULAR_TYPES:
            self._begin_file(relative)
        else:
            raise FailedError("is a fifo or a device, which is not unpacked")

    def content(self, data: memoryview) -> None:
        """The next bytes of a file."""
        if self._file is not None:
            self._file.write(data)

    def end(self) -> None:
        """The member is complete."""
        if self._member is None:
            return
        if self._file is not None:
            mode = self._member.mode & _PERMISSIONS
            self._file.commit(mode, change_mode=mode)
            self._file = None
            self._set_time(self._target, self._member)
            self.bytes += self._member.size
        self.entries += self._counts
        self._member = None

    def _begin_file(self, relative: str) -> None:
        self._target = self._place(relative)
        self._file = AtomicFile(self._target, sync=self._sync, follow=False)
        self._file.write(b"")  # what cannot be opened is known before its content comes

    def _make_directory(self, relative: str, member: Member) -> None:
        path = posixpath.join(self._parent(relative), posixpath.basename(relative))
        refuse_file(self._below.inside(os.path.realpath(path)))
        if not os.path.isdir(path):
            make_directories(path, member.mode & _PERMISSIONS | _USABLE)

    def _make_symlink(self, relative: str, member: Member) -> None:
        if not member.target or "\0" in member.target:
            raise FailedError("a link needs a target, which cannot hold a NUL byte")
        self._put(self._place(relative), partial(os.symlink, member.target))
        self._set_time(self._target, member)

    def _make_hard_link(self, relative: str, member: Member) -> None:
        source = self._entry(_member_name(member.target))
        with operation("link", source):
            if stat.S_IFMT(os.lstat(source).st_mode) not in _LINKABLE:
                raise OSError(errno.EPERM, "is no regular file, so it has one name only")
        self._put(self._place(relative), partial(os.link, source, follow_symlinks=False))

    def _put(self, path: str, make: Callable[[str], None]) -> None:
        self._target = path
        with operation("link", path):
            replace_entry(path, make)
        self._below.forget()

    def _place(self, relative: str) -> str:
        """Where a member goes; its directory is made."""
        self._parent(relative)
        return self._entry(relative)

    def _entry(self, relative: str) -> str:
        """A name in its directory, which lies below the root; what has the name may be a link."""
        if not relative:
            raise FailedError("is a directory")
        return posixpath.join(self._below.parent(relative), posixpath.basename(relative))

    def _parent(self, relative: str) -> str:
        parent = self._below.parent(relative)
        make_directories(parent, DEFAULT_DIRECTORY_MODE)
        return parent

    def _set_time(self, path: str, member: Member) -> None:
        with suppress(OSError, OverflowError):
            os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)


def _member_name(name: str) -> str:
    """A member's name below the directory; empty for the directory itself.

    Raises:
        FailedError: it is absolute, or holds `..`.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise FailedError("it leads out of the directory")
    return relative_name(name)


class _Inflate:
    """A gzip stream, as one or as several after each other (RFC 1952)."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What bytes contain, in portions.

        Raises:
            FailedError: they are damaged.
        """
        full = False
        while data or full:
            if self._stream.eof:
                data = data.lstrip(b"\0")  # padding
                if not data:
                    return
                self._stream = zlib.decompressobj(_GZIP)
            try:
                piece = self._stream.decompress(data, INFLATED_BYTES)
            except zlib.error as exc:
                raise FailedError(f"this is no gzip stream, or a damaged one ({exc})") from None
            yield piece
            full = len(piece) == INFLATED_BYTES  # more may have been held back
            data = self._stream.unused_data or self._stream.unconsumed_tail

    def close(self) -> None:
        """There is no more.

        Raises:
            FailedError: the stream was cut off.
        """
        if not self._stream.eof:
            raise FailedError("unexpected EOF: the gzip stream is cut off")
