"""Entries of directories: put in the place of another in one step, or only where there is none.

Everything here blocks: run it on file threads.
"""

import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress

from sandbox_api.core import linux
from sandbox_api.core.atomic import PATH_LOCKS, unlink_quietly
from sandbox_api.core.paths import RESERVED_PREFIX

_NEVER_REPLACED = frozenset({stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO})
_NO_EXCLUSIVE_RENAME = frozenset({errno.EINVAL, errno.ENOSYS})


def reserved_beside(path: str) -> str:
    """A new name of ours in the directory of a path."""
    return posixpath.join(posixpath.dirname(path), RESERVED_PREFIX + secrets.token_hex(8))


def replace_entry(path: str, make: Callable[[str], None]) -> None:
    """Make a link under a name, in the place of what has it now.

    Args:
        path: absolute.
        make: makes it under the name that it gets, which nothing has.

    Raises:
        OSError: the system refused, such as EISDIR for a directory; or as in `rename_over`.
    """
    temporary = reserved_beside(path)
    make(temporary)
    try:
        with PATH_LOCKS.hold(path):
            rename_over(temporary, path)
    finally:
        unlink_quietly(temporary)  # rename(2) leaves it where both are links to one file


def rename_over(source: str, target: str) -> None:
    """Rename to a name that something may have, but no device and no fifo: programs need those.

    Raises:
        OSError: one has it; whatever the system refuses.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_IFMT(os.lstat(target).st_mode) in _NEVER_REPLACED:
            raise OSError(errno.EINVAL, "is a device or a fifo, which is not replaced")
    os.rename(source, target)


def rename_new(source: str, target: str) -> None:
    """Rename to a name that nothing has.

    Where the file system cannot do that in one step, the name is first taken by something empty,
    which is replaced then.

    Raises:
        FileExistsError: something has it.
        OSError: the system refused.
    """
    try:
        linux.rename_exclusive(source, target)
    except OSError as exc:
        if exc.errno not in _NO_EXCLUSIVE_RENAME:
            raise
        _rename_to_claimed(source, target)


def _rename_to_claimed(source: str, target: str) -> None:
    is_directory = stat.S_ISDIR(os.lstat(source).st_mode)
    if is_directory:
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    try:
        os.rename(source, target)
    except OSError:
        (os.rmdir if is_directory else os.unlink)(target)
        raise
