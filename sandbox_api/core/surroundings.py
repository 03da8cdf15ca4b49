"""What an image lacks, said once at the start: the daemon runs without it, but less well."""

import os
from collections.abc import Iterator, Mapping
from typing import Final

# Where to look, and what does not work where there is nothing.
CONSEQUENCES: Final[Mapping[str, str]] = {
    "/proc/self/stat": (
        "/proc is not mounted: ports and memory of processes are not told, and a kill reaches the "
        "process and its group only; mount it with: mount -t proc proc /proc"
    ),
    "/dev/null": (
        "/dev/null is missing: commands do not start unless they ask for stdin; make it with: "
        "mknod -m 666 /dev/null c 1 3"
    ),
    "/dev/shm": (  # noqa: S108 - looked for, not written to
        "/dev/shm is missing: programs that share memory, such as browsers, may fail"  # noqa: S108
    ),
    "/tmp": (  # noqa: S108
        "/tmp is missing: programs that write temporary files fail; make it with mode 1777"  # noqa: S108
    ),
    "/etc/passwd": "/etc/passwd is missing: users are known by their numbers only",
}


def missing_parts(root: str = "") -> Iterator[str]:
    """What is not there and what follows, one text for each.

    Args:
        root: of the file system, without a slash at its end.
    """
    for path, consequence in CONSEQUENCES.items():
        if not os.path.exists(f"{root}{path}"):
            yield consequence
