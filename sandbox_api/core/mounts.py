"""What is mounted where, as the kernel tells it (proc_pid_mountinfo(5)).

Everything here blocks: run it on file threads.
"""

import errno
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_MADE_UP_BYTES = 16 << 20  # /proc/kcore is as long as the address space
READ_BYTES = 1 << 20

_MOUNTS = "/proc/self/mountinfo"
_ESCAPE = re.compile(r"\\([0-7]{3})")

_KERNEL_TYPES = frozenset(
    {"binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs"}
    | {"fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs"}
    | {"sysfs", "tracefs"}
)


class Mount(NamedTuple):
    """One mounted file system.

    Attributes:
        device: as `st_dev` tells it.
        point: the directory or file under which it is found, absolute.
        kind: its type, such as `ext4`.
    """

    device: int
    point: str
    kind: str

    @property
    def of_the_kernel(self) -> bool:
        """Whether its files are made up as they are read: their sizes say nothing."""
        return self.kind in _KERNEL_TYPES


def mounts() -> Iterator[Mount]:
    """All mounts; none where /proc is missing."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields, _, rest = line.partition(" - ")
                _, _, device, _, point, *_ = fields.split(" ")
                major, _, minor = device.partition(":")
                point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), point)
                yield Mount(os.makedev(int(major), int(minor)), point, rest.partition(" ")[0])
    except OSError:
        return


def kernel_mounts_below(path: str) -> frozenset[str]:
    """Where below a directory file systems of the kernel are mounted, such as /proc below `/`.

    Args:
        path: absolute; results begin with it, also where it is a link.
    """
    real = os.path.realpath(path).rstrip("/") + "/"
    points = (mount.point for mount in mounts() if mount.of_the_kernel)
    shown = path.rstrip("/") + "/"
    return frozenset(shown + point[len(real) :] for point in points if point.startswith(real))


def is_made_up(status: os.stat_result) -> bool:
    """Whether a regular file's size says nothing of what is read from it: /proc tells 0, /sys 4096.

    An empty file looks the same, and is read as one.
    """
    if not status.st_size:
        return True
    if status.st_blocks:
        return False  # it is on a disk, so the mounts need not be read
    return any(mount.device == status.st_dev for mount in mounts() if mount.of_the_kernel)


def read_made_up(fd: int) -> bytes:
    """What an open file holds whose size says nothing.

    Raises:
        OSError: EFBIG, it is over 16 MiB; EAGAIN, there is nothing yet, as in /proc/kmsg.
    """
    content = bytearray()
    while data := os.read(fd, READ_BYTES):
        content += data
        if len(content) > MAX_MADE_UP_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return bytes(content)
