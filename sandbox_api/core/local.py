"""Which directories lie on a local disk, where a read of a cached page does not wait.

A look at a file on a network or FUSE mount may wait without end, so it must not happen on the
event loop. What is known is forgotten after a second, for something may be mounted there.
"""

import os
from time import monotonic

from sandbox_api.core.mounts import mounts

MAX_DIRECTORIES = 4096

_LOCAL_TYPES = frozenset(
    {"btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay"}
    | {"ramfs", "rootfs", "squashfs", "tmpfs", "xfs"}
)


class LocalDirectories:
    """The directories that were on a local file system a moment ago.

    Args:
        memory_s: how long that is, in seconds.
    """

    def __init__(self, memory_s: float = 1.0) -> None:
        self._memory_s = memory_s
        self._until: dict[str, float] = {}
        self._devices: frozenset[int] = frozenset()
        self._devices_until = 0.0

    def knows(self, directory: str) -> bool:
        """Whether a directory is known to be local; asks the system nothing."""
        return self._until.get(directory, 0.0) > monotonic()

    def learn(self, directory: str) -> None:
        """Find out about a directory. Blocks: call it on a file thread."""
        try:
            device = os.stat(directory).st_dev
        except OSError:
            return
        if device not in self._local_devices():
            return
        if len(self._until) >= MAX_DIRECTORIES:
            self._until = {}
        self._until[directory] = monotonic() + self._memory_s

    def _local_devices(self) -> frozenset[int]:
        now = monotonic()
        if now > self._devices_until:
            local = (mount.device for mount in mounts() if mount.kind in _LOCAL_TYPES)
            self._devices = frozenset(local)
            self._devices_until = now + self._memory_s
        return self._devices
