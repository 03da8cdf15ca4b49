"""The system's refusals as errors with a text: `<operation> <path>: <reason>`."""

import errno

from sandbox_api.core.paths import RESERVED_PREFIX, Location, printable
from sandbox_api.errors import FailedError, SandboxError, UnavailableError, os_text

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What passes by itself. Clients retry those only when they are not told that it is their fault."""


def refusal(operation: str, path: str, exc: OSError) -> SandboxError:
    """An OSError as the kind and the text that clients know (spec/filesystem.md 1)."""
    kind = UnavailableError if exc.errno in _SHORTAGES else FailedError
    return kind(os_text(operation, printable(path), exc))


class operation:  # noqa: N801 - used as a statement, thousands of times for a tree
    """Name what was being done to which path when the system refuses.

    A class, since a generator takes four times as long.

    Args:
        name: the operation as clients know it, such as `open`, `mkdir`, `write`.
        path: absolute.

    Raises:
        FailedError: the system refused.
        UnavailableError: it is short of descriptors or memory.
    """

    __slots__ = ("_name", "_path")

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, OSError):
            raise refusal(self._name, self._path, exc) from exc


class attempt:  # noqa: N801 - as above
    """Begin the text of a refusal with what the client asked for, such as `error writing file`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, FailedError | UnavailableError):
            raise type(exc)(f"{self._text}: {exc.message}") from exc.__cause__


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
