"""What is told about a file, and the names of its owners."""

import grp
import os
import pwd
from typing import NamedTuple

from sandbox_api.core.paths import printable

_ACCOUNTS = ("/etc/passwd", "/etc/group")


class FileInfo(NamedTuple):
    """One file. A tuple, since a listing makes thousands.

    Attributes:
        path: as the client sees it, for people and JSON (see `printable`).
        name: base name, in the same way.
        raw_path: the path as bytes; only where `path` cannot say it, for it is not UTF-8.
        mode: type and permission bits.
        size: bytes.
        mtime_ns: last modification, nanoseconds since the epoch.
        owner: user name, or the number as text where it has none.
        group: group name, or the number as text where it has none.
    """

    path: str
    name: str
    raw_path: bytes | None
    mode: int
    size: int
    mtime_ns: int
    owner: str
    group: str


def describe(path: str, name: str, status: os.stat_result, owners: "OwnerNames") -> FileInfo:
    """A file's description.

    Args:
        path: as the client sees it.
        name: base name.
        status: of the file.
        owners: names of users and groups.
    """
    return FileInfo(
        printable(path),
        printable(name),
        raw_path(path),
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        owners.user(status.st_uid),
        owners.group(status.st_gid),
    )


def describe_unknown(path: str, name: str) -> FileInfo:
    """The description of a file that the system tells nothing about but its name."""
    return FileInfo(printable(path), printable(name), raw_path(path), 0, 0, 0, "", "")


def raw_path(path: str) -> bytes | None:
    """The bytes of a path that is not UTF-8, else None."""
    if path.isascii():
        return None
    raw = os.fsencode(path)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw
    return None


class OwnerNames:
    """Names of users and groups, read once and again when the account files change."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._version: tuple[object, ...] = ()

    def refresh(self) -> None:
        """Forget all names when an account file is not the one they were read from."""
        version = tuple(_version(path) for path in _ACCOUNTS)
        if version != self._version:
            self._users, self._groups, self._version = {}, {}, version

    def user(self, uid: int) -> str:
        """The user's name, or its number as text."""
        name = self._users.get(uid)
        if name is None:
            name = self._users[uid] = _user_name(uid)
        return name

    def group(self, gid: int) -> str:
        """The group's name, or its number as text."""
        name = self._groups.get(gid)
        if name is None:
            name = self._groups[gid] = _group_name(gid)
        return name


def _version(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None  # a root without accounts, as in a scratch image
    return status.st_ino, status.st_mtime_ns


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        return str(gid)
