"""System calls that the standard library lacks, through ctypes.

Every prototype is declared here and nowhere else. `PyDLL` keeps the GIL, which is right for calls
that return at once and must stay on their thread; `CDLL` releases it for calls that may wait.
Works the same in pip installs and in the static file, whose table serves the same names
(spec/native.md section 2).
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FICLONE = 0x40049409
F_SETPIPE_SZ = 1031
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159}
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


@cache
def _quick_calls() -> ctypes.PyDLL:
    library = ctypes.PyDLL(None, use_errno=True)
    library.setfsuid.argtypes = library.setfsgid.argtypes = [ctypes.c_uint]
    library.setfsuid.restype = library.setfsgid.restype = ctypes.c_int
    library.syscall.restype = ctypes.c_long
    library.prctl.restype = ctypes.c_int
    return library


@cache
def _slow_calls() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    library.fallocate.restype = ctypes.c_int
    library.syscall.restype = ctypes.c_long
    return library


def _raise_errno(call: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), call)


def set_thread_identity(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Make the calling thread act on files as this user, until it ends.

    setfsuid(2) drops the file capabilities of this thread only, and the raw setgroups system call
    (not the C library's, which changes all threads) gives it the user's supplementary groups.

    Args:
        uid: numeric user.
        gid: numeric primary group.
        groups: numeric supplementary groups.

    Raises:
        OSError: the kernel refused; the thread must not be used then.
    """
    libc = _quick_calls()
    array = (ctypes.c_uint32 * len(groups))(*groups)
    number = ctypes.c_long(_SYS_SETGROUPS[os.uname().machine])
    if libc.syscall(number, ctypes.c_size_t(len(groups)), array) != 0:
        _raise_errno("setgroups")
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    invalid = 0xFFFFFFFF  # these calls cannot report failure: an invalid id reads the current one
    if libc.setfsuid(invalid) != uid or libc.setfsgid(invalid) != gid:
        raise PermissionError(1, "the kernel refused to change the file identity", "setfsuid")


def become_subreaper() -> None:
    """Become the parent of every descendant that loses its own (PR_SET_CHILD_SUBREAPER(2const)).

    Raises:
        OSError: a kernel before 3.4, or a filter.
    """
    if _quick_calls().prctl(PR_SET_CHILD_SUBREAPER, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        _raise_errno("prctl")


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the disk blocks of a byte range back; the file keeps its size (fallocate(2)).

    Args:
        fd: an open file.
        offset: first byte.
        length: bytes; partial pages at the edges are zeroed, not released.

    Raises:
        OSError: EOPNOTSUPP where the file system has no holes.
    """
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if _slow_calls().fallocate(fd, mode, offset, length) != 0:
        _raise_errno("fallocate")


def preallocate(fd: int, offset: int, length: int) -> None:
    """Give disk blocks to a byte range; the file grows where that is beyond its end (fallocate(2)).

    Args:
        fd: an open file.
        offset: first byte.
        length: bytes.

    Raises:
        OSError: EOPNOTSUPP where the file system cannot; ENOSPC when the disk is full.
    """
    if _slow_calls().fallocate(fd, 0, offset, length) != 0:
        _raise_errno("fallocate")


def rename_exclusive(source: str, target: str) -> None:
    """Rename, unless the target exists: one step that nobody can come between (renameat2(2)).

    Raises:
        FileExistsError: the target exists.
        OSError: EINVAL or ENOSYS where the file system or the kernel cannot.
    """
    here = ctypes.c_long(_AT_FDCWD)
    number = ctypes.c_long(_SYS_RENAMEAT2[os.uname().machine])
    old, new = ctypes.c_char_p(os.fsencode(source)), ctypes.c_char_p(os.fsencode(target))
    flags = ctypes.c_uint(_RENAME_NOREPLACE)
    if _slow_calls().syscall(number, here, old, here, new, flags) != 0:
        _raise_errno("renameat2")


def clone_file(source: int, target: int) -> bool:
    """Let one file share the other's blocks; False where the file system has none to share.

    FICLONE, ioctl_ficlonerange(2).
    """
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def erase_environment(name: bytes) -> None:
    """Overwrite one variable's value in the block that /proc/self/environ shows.

    The kernel tells where that block lies. The variable must have been removed from the environment
    before: the text that this overwrites is in use else.

    Raises:
        OSError: /proc is not there.
        ValueError: the kernel does not tell.
    """
    start, end = _own_block(50)
    block = ctypes.string_at(start, end - start)
    offset = 0
    for entry in block.split(b"\0"):
        if entry.startswith(name + b"="):
            ctypes.memset(start + offset, 0, len(entry))
        offset += len(entry) + 1


def rename_process(name: bytes) -> None:
    """What ps(1) shows of this process, a forked one: its name, and instead of its command line.

    Args:
        name: 15 bytes at most, no NUL byte.

    Raises:
        OSError: /proc is not there, or a filter.
        ValueError: the kernel does not tell where the command line lies.
    """
    if _quick_calls().prctl(PR_SET_NAME, ctypes.c_char_p(name), *map(ctypes.c_ulong, (0, 0, 0))):
        _raise_errno("prctl")
    start, end = _own_block(48)
    if len(name) < end - start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, name, len(name))


def _own_block(field: int) -> tuple[int, int]:
    """Begin and end of a part of our memory, as two fields of /proc/self/stat tell
    (proc_pid_stat(5)).

    Raises:
        OSError: /proc is not there.
        ValueError: the kernel does not tell.
    """
    stat = Path("/proc/self/stat").read_bytes()
    fields = stat[stat.rindex(b")") + 2 :].split()  # from field 3 on: the name may hold anything
    start, end = int(fields[field - 3]), int(fields[field - 2])
    if not 0 < start < end:
        raise ValueError("the kernel hides where our memory lies")
    return start, end


def first_data(fd: int) -> int:
    """The offset of a file's first data: 0 without a hole, its size where all is one hole."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            return 0
        return os.fstat(fd).st_size


def next_data(fd: int, offset: int) -> int:
    """Where the next data of a file begins, at an offset or after it; past all data, its size.

    Where the file system knows no holes, all is data (lseek(2), SEEK_DATA).
    """
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        return os.fstat(fd).st_size if exc.errno == errno.ENXIO else offset


def next_hole(fd: int, offset: int) -> int:
    """Where the data at an offset of a file ends."""
    try:
        return os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError:
        return os.fstat(fd).st_size
