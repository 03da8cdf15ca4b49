"""Which files go to a service that ranks them: source text, and nothing that may be a secret.

Everything here blocks: run it on search threads, which act as the workload user.
"""

import os
import posixpath
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from sandbox_api.core.codegen.provider import Document
from sandbox_api.core.directories import entry_base
from sandbox_api.core.paths import Location, printable
from sandbox_api.core.patterns import compile_patterns
from sandbox_api.core.regular import READ_FLAGS
from sandbox_api.core.walk import SEARCH_EXCLUDES, Walk, WalkScope
from sandbox_api.errors import InvalidError

MAX_FILE_BYTES: Final = 256 * 1024
MAX_TOTAL_BYTES: Final = 8 << 20
MOST_FILES: Final = 2000
MAX_PATTERN: Final = 1000  # characters
BINARY_BYTES: Final = 8000  # where a NUL is looked for, as git does

SCOPE: Final = WalkScope(exclude_directories=SEARCH_EXCLUDES, exclude_hidden=True, gitignore=True)
SECRETS: Final = (
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.asc", "*.gpg"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*credentials*.json", "*.tfstate*"),
    *("*.env", "secrets.*", "*service-account*.json", "*service_account*.json"),
)
"""Names of what is never sent to anybody. Hidden files are not either."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The documents of a directory.

    Attributes:
        documents: in the order of the walk.
        truncated: whether there are more.
    """

    documents: list[Document]
    truncated: bool


def collect_documents(location: Location, pattern: str, stopped: Callable[[], bool]) -> Collected:
    """The text files below a directory.

    Args:
        location: the directory.
        pattern: a regular expression that a path or base name must match somewhere; may be empty.
        stopped: asked now and then whether to end early.

    Raises:
        InvalidError: the pattern is none.
        OSError: the directory cannot be read.
    """
    wanted, secret = name_filter(pattern), compile_patterns(SECRETS)
    base, cut = entry_base(location.shown), len(location.absolute.rstrip("/")) + 1
    found: list[Document] = []
    left = MAX_TOTAL_BYTES
    for entry in Walk(location.absolute, SCOPE, stopped):
        relative = entry.path[cut:]
        if secret is not None and secret.fit(entry.name.lower(), relative.lower()):
            continue
        path = printable(base + relative)
        if not (wanted(path) or wanted(posixpath.basename(path))):
            continue
        data = read_text(entry)
        if data is None:
            continue
        if len(found) >= MOST_FILES or len(data) > left:
            return Collected(found, truncated=True)
        left -= len(data)
        found.append(Document(path, data.decode("utf-8", "replace")))
    return Collected(found, truncated=stopped())


def name_filter(pattern: str) -> Callable[[str], bool]:
    """A test for names.

    The engine is that of Rust, which pydantic brings: linear in time, whatever the expression, and
    nearly the syntax that clients of the reference know.

    Args:
        pattern: a regular expression; everything passes an empty one.

    Raises:
        InvalidError: it is none.
    """
    if not pattern:
        return lambda _: True
    if len(pattern) > MAX_PATTERN:
        raise InvalidError(f"invalid file pattern regex: longer than {MAX_PATTERN} characters")
    try:
        adapter = TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError as exc:
        reason = str(exc).rpartition("error: ")[2] or "it cannot be compiled"
        raise InvalidError(f"invalid file pattern regex: {reason:.200}") from None

    def fits(name: str) -> bool:
        try:
            adapter.validate_python(name)
        except ValidationError:
            return False
        return True

    return fits


def read_text(entry: os.DirEntry[str]) -> bytes | None:
    """A small text file's bytes; None for everything else, and for what cannot be read.

    Args:
        entry: of a directory; a link is not followed.
    """
    try:
        regular = entry.is_file(follow_symlinks=False)
    except OSError:
        return None
    return read_text_at(entry.path) if regular else None


def read_text_at(path: str) -> bytes | None:
    """The same, by an absolute path."""
    try:
        fd = os.open(path, READ_FLAGS | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return None
        data = os.read(fd, MAX_FILE_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if len(data) > MAX_FILE_BYTES or b"\0" in data[:BINARY_BYTES] else data
