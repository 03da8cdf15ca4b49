"""The system's refusals as errors with a text: `<operation> <path>: <reason>`."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_api.core.paths import RESERVED_PREFIX, Location, printable
from sandbox_api.errors import FailedError, SandboxError, UnavailableError, os_text

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What passes by itself. Clients retry those only when they are not told that it is their fault."""


def refusal(operation: str, path: str, exc: OSError) -> SandboxError:
    """An OSError as the kind and the text that clients know (spec/filesystem.md 1)."""
    kind = UnavailableError if exc.errno in _SHORTAGES else FailedError
    return kind(os_text(operation, printable(path), exc))


@contextmanager
def operation(name: str, path: str) -> Iterator[None]:
    """Name what was being done to which path when the system refuses.

    Args:
        name: the operation as clients know it, such as `open`, `mkdir`, `write`.
        path: absolute.

    Raises:
        FailedError: the system refused.
        UnavailableError: it is short of descriptors or memory.
    """
    try:
        yield
    except OSError as exc:
        raise refusal(name, path, exc) from exc


@contextmanager
def attempt(text: str) -> Iterator[None]:
    """Begin the text of a refusal with what the client asked for, such as `error writing file`."""
    try:
        yield
    except (FailedError, UnavailableError) as exc:
        raise type(exc)(f"{text}: {exc.message}") from exc.__cause__


def refuse_reserved(location: Location) -> None:
    """Refuse to write what has a name of ours.

    Raises:
        FailedError: `open A: …`.
    """
    if location.reserved:
        raise FailedError(
            f"open {printable(location.absolute)}: names that begin with {RESERVED_PREFIX} are "
            "reserved for writes under way; choose another name"
        )
