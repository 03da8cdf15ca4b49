"""Where records, journals, logs and upload metadata live: one private directory per port.

The directory is 0700 and ours, never reached through a link, and locked: a second daemon of the
same port gets none and runs from memory (design.md 7). What it lies in may be anybody's choice
(`SANDBOX_STATE_DIR=/var`), so its mode is left alone.
"""

import fcntl
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

PRIVATE_MODE = 0o700
WRITABLE_BY_OTHERS = 0o022


def state_candidates(explicit: str, xdg_state_home: str, home: str, tmpdir: str) -> list[Path]:
    """Directories to try, in order; an explicit one is the only one.

    Args:
        explicit: SANDBOX_STATE_DIR, or empty.
        xdg_state_home: XDG_STATE_HOME, or empty.
        home: HOME, or empty.
        tmpdir: TMPDIR, or empty for /tmp.
    """
    if explicit:
        return [Path(explicit)]
    candidates = [Path("/var/lib/sandbox-api")]
    if xdg_state_home:
        candidates.append(Path(xdg_state_home, "sandbox-api"))
    if home:
        candidates.append(Path(home, ".local/state/sandbox-api"))
    candidates.append(Path(tmpdir or "/tmp", f"sandbox-api-{os.geteuid()}"))  # noqa: S108 - owner and mode are checked
    return candidates


@contextmanager
def open_state(candidates: Sequence[Path], port: int) -> Iterator[Path | None]:
    """Take the state directory of a port for as long as the context lasts.

    Args:
        candidates: as `state_candidates` returns them.
        port: the daemon's port.

    Yields:
        The private directory, or None where none is writable or another daemon holds it; one log
        line says which and why.
    """
    with _first_usable(candidates, str(port)) as directory:
        yield directory


@contextmanager
def open_subdirectory(state: Path | None, name: str, explicit: str = "") -> Iterator[Path | None]:
    """A directory below the state directory, or the one that a setting names, for this daemon
    alone.

    Args:
        state: the state directory, or None where there is none.
        name: of the directory below it.
        explicit: a setting's path that is used instead, as given; or empty.

    Yields:
        The directory, or None where it cannot be had; one log line says why.
    """
    if state is None:
        yield None
        return
    directory = Path(explicit) if explicit else state / name
    try:
        directory.mkdir(mode=PRIVATE_MODE, parents=True, exist_ok=True)
        lock = _take_lock(directory / ".lock")
    except OSError as exc:
        log.warning("no directory for %s: %s: %s", name, directory, exc.strerror or exc)
        yield None
        return
    try:
        yield directory
    finally:
        os.close(lock)


@contextmanager
def _first_usable(candidates: Sequence[Path], name: str) -> Iterator[Path | None]:
    reasons = []
    for candidate in candidates:
        try:
            directory = _own_directory(candidate, private=False) / name
            _own_directory(directory, private=True)
            lock = _take_lock(directory / "lock")
        except OSError as exc:
            reasons.append(f"{candidate}: {exc.strerror or exc}")
            continue
        try:
            yield directory
        finally:
            os.close(lock)
        return
    log.warning(
        "no state directory: logs are kept in memory (1 MiB a stream) and nothing survives a "
        "restart; set SANDBOX_STATE_DIR to a private, writable directory",
        extra={"tried": "; ".join(reasons)},
    )
    yield None


def _own_directory(path: Path, *, private: bool) -> Path:
    """Create or check a directory: ours, no link, and nobody else can replace what is in it."""
    with suppress(FileExistsError):
        path.mkdir(mode=PRIVATE_MODE, parents=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise PermissionError(1, "owned by another user")
        mode = stat.S_IMODE(status.st_mode)
        if private and mode != PRIVATE_MODE:
            os.fchmod(fd, PRIVATE_MODE)
        elif mode & WRITABLE_BY_OTHERS and not mode & stat.S_ISVTX:
            raise PermissionError(1, "others can write to it; chmod go-w it, or name another")
    finally:
        os.close(fd)
    if not os.access(path, os.W_OK, effective_ids=True):
        raise PermissionError(13, "not writable")
    return path


def _take_lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise BlockingIOError(exc.errno, "in use by another daemon") from None
    return fd
