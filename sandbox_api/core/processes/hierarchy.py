"""Where the control group of this process lies in the file system (cgroups(7))."""

import re
from collections.abc import Iterator
from pathlib import Path

NOWHERE = Path("/nonexistent")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def own_directory(controller: str = "") -> Path:
    """The directory of our own group.

    Args:
        controller: of which hierarchy of version 1; empty for the one of version 2.

    Returns:
        A directory that does not exist where there is none, or none that we can see.
    """
    own = own_group(controller)
    if own is None:
        return NOWHERE
    for root, mount_point in _mounts(controller):
        if own == root or own.startswith(root.rstrip("/") + "/"):
            return Path(mount_point + own[len(root.rstrip("/")) :])
    return NOWHERE


def own_group(controller: str = "", pid: int | str = "self") -> str | None:
    """The name of a process's group in one hierarchy; None where it has none."""
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def _mounts(controller: str) -> Iterator[tuple[str, str]]:
    """Root and mount point of a hierarchy, wherever it is mounted (proc_pid_mountinfo(5))."""
    for line in _lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ")
        wanted = controller in options.split(",") if controller else True
        if kind == ("cgroup" if controller else "cgroup2") and wanted:
            root, mount_point = fields.split(" ")[3:5]
            yield _plain(root), _plain(mount_point)


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
