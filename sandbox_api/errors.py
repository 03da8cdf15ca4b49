"""What can go wrong, by meaning. Only `api/middleware.py` knows the HTTP status of each kind.

SandboxError
├── InvalidError        the request itself is malformed
├── UnauthorizedError   no valid token
├── ForbiddenError      this caller may not do it
├── NotFoundError       the thing named does not exist
├── ConflictError       it clashes with what is there
├── PreconditionError   an If-Match or If-None-Match does not hold
├── TooLargeError       more than a limit allows
├── RangeError          a byte range that the file does not have
├── FailedError         understood, but the system refused it (no such directory, disk full, ...)
├── DeadlineError       it did not happen in time
├── UnavailableError    not now; trying again may work
├── UpstreamError       the app in the sandbox that the request was for does not answer it
└── InternalError       our own fault, or a pinned text of the reference that is one
"""

from collections.abc import Mapping


class SandboxError(Exception):
    """A failure with a text for the user and, optionally, more fields for the error body.

    Args:
        message: what was wrong, with which value, and what to do.
        fields: added to the JSON error body beside `error` (for example `code`).
    """

    def __init__(self, message: str, fields: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields: Mapping[str, object] = fields or {}


class InvalidError(SandboxError):
    """The request itself is malformed."""


class UnauthorizedError(SandboxError):
    """No valid token came with the request."""


class ForbiddenError(SandboxError):
    """This caller may not do it."""


class NotFoundError(SandboxError):
    """The thing named does not exist."""


class ConflictError(SandboxError):
    """It clashes with what is there."""


class PreconditionError(SandboxError):
    """A precondition that the client named does not hold."""


class TooLargeError(SandboxError):
    """More than a limit allows; the text names the limit and the way around it."""


class RangeError(SandboxError):
    """A byte range that the file does not have."""


class FailedError(SandboxError):
    """Understood, but the system refused it."""


class DeadlineError(SandboxError):
    """It did not happen in the time that the client allowed."""


class UnavailableError(SandboxError):
    """Not now; trying again may work."""


class UpstreamError(SandboxError):
    """The app in the sandbox that the request was meant for does not answer, or answers rubbish."""


class InternalError(SandboxError):
    """Our own fault, or one of the texts that the reference's tests pin to a 500."""


def os_reason(exc: OSError) -> str:
    """The kernel's reason as clients know it: lower-case first letter, no errno."""
    reason = exc.strerror or str(exc) or type(exc).__name__
    return reason[:1].lower() + reason[1:]


def os_text(operation: str, path: str, exc: OSError) -> str:
    """`<operation> <path>: <reason>`, the wording of spec/filesystem.md section 1."""
    return f"{operation} {path}: {os_reason(exc)}"
