"""One write of many files below a directory: every key is checked before the first is written.

Everything here blocks: run it on file threads.
"""

import posixpath
from collections.abc import Callable, Mapping

from sandbox_api.core.atomic import make_directories, write_file
from sandbox_api.core.below import Below, refuse_file, relative_name
from sandbox_api.core.conditions import UNCONDITIONAL, Condition
from sandbox_api.core.directories import make_directory
from sandbox_api.core.paths import DEFAULT_DIRECTORY_MODE
from sandbox_api.core.refusals import attempt
from sandbox_api.errors import FailedError, SandboxError, UnavailableError

_SHOWN_CHARACTERS = 200


class TreeWrite:
    """Files by their keys: paths relative to a root, that cannot lead out of it.

    Args:
        root: absolute.
        files: content by key; None is an empty file.
        sync: whether to wait for the disk.
        condition: what must hold of the root.
    """

    def __init__(
        self,
        root: str,
        files: Mapping[str, str | None],
        *,
        sync: bool = False,
        condition: Condition = UNCONDITIONAL,
    ) -> None:
        self._below = Below(root)
        self._files = files
        self._sync = sync
        self._condition = condition
        self._made: set[str] = set()

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Write all files, in the order of their keys; an empty set only makes the root.

        Args:
            stopped: asked before each file whether to give up.

        Raises:
            FailedError: the fields `written` and `failed` name the keys of what was written and of
                what was not; nothing is written when a key is not possible.
            UnavailableError: the same, when it was stopped or the system is short of something.
            PreconditionError: the condition does not hold; nothing is written.
        """
        with attempt("error creating root directory"):
            refuse_file(self._below.root)
        targets = self._check()
        with attempt("error creating root directory"):
            make_directory(self._below.root, DEFAULT_DIRECTORY_MODE, self._condition)
        written: list[str] = []
        key = ""
        try:
            for key, target in targets.items():
                if stopped():
                    raise UnavailableError("the daemon stops")
                self._write(target, self._files[key] or "")
                written.append(key)
        except SandboxError as exc:
            raise _failure(exc, exc.message, key, written) from exc

    def _write(self, target: str, content: str) -> None:
        parent = posixpath.dirname(target)
        if parent not in self._made:
            with attempt("error creating parent directory"):
                make_directories(parent, DEFAULT_DIRECTORY_MODE)
            self._made.add(parent)
        with attempt("error writing file"):
            write_file(target, content.encode(), sync=self._sync)

    def _check(self) -> dict[str, str]:
        """Where each key is written, in the order of the keys."""
        keys: dict[str, str] = {}
        targets: dict[str, str] = {}
        key = ""
        try:
            for key in self._files:
                targets[key] = self._check_key(key, keys)
            for relative, key in keys.items():  # noqa: B007 - the error names it
                _refuse_file_as_directory(relative, keys)
        except SandboxError as exc:
            message = f"error writing file: key '{_shown(key)}': {exc.message}"
            raise _failure(exc, message, key, []) from exc
        return targets

    def _check_key(self, key: str, keys: dict[str, str]) -> str:
        relative = relative_name(key)
        if not relative:
            raise FailedError("is a directory")
        if relative in keys:
            raise FailedError(f"it is the same file as '{_shown(keys[relative])}'")
        keys[relative] = key
        return self._below.target(relative)


def _refuse_file_as_directory(relative: str, keys: Mapping[str, str]) -> None:
    while relative := posixpath.dirname(relative):
        if relative in keys:
            raise FailedError(f"'{_shown(keys[relative])}' is a file as well, not a directory")


def _failure(exc: SandboxError, message: str, key: str, written: list[str]) -> SandboxError:
    return type(exc)(message, {"written": written, "failed": key})


def _shown(key: str) -> str:
    return key if len(key) <= _SHOWN_CHARACTERS else f"{key[:_SHOWN_CHARACTERS]}…"
