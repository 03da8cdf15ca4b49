"""Steps of the build: each makes one directory, once for each state of what it is made from."""

import ast
import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

COMPLETE = ".complete"
UNUSED_AFTER_S = 30 * 86400
FETCH_FAILED = 75  # EX_TEMPFAIL of sysexits.h: not the fault of what is built


class BuildError(Exception):
    """A step that cannot be done; says what to do."""


class FetchError(BuildError):
    """A source that could not be fetched: the network's fault, not the project's."""


class Cache:
    """A directory of finished steps.

    A step's directory is named after the step and a digest of its inputs; what has the same inputs
    is not made again. It is made in its final place, since much of what compilers write holds its
    own path, and counts only when it is complete.

    Args:
        root: where the steps lie; made where it is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def step(self, name: str, inputs: Iterable[object], make: Callable[[Path], None]) -> Path:
        """The directory of a step, from the cache or made now.

        Args:
            name: what the step is called.
            inputs: all that the result depends on: texts, and paths of files, whose content counts.
            make: fills an empty directory.

        Raises:
            BuildError: `make` did.
        """
        directory = self.root / f"{name}-{digest([name, *inputs])[:16]}"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two work trees may share one cache
            if (directory / COMPLETE).exists():
                os.utime(directory / COMPLETE)
                return directory
            started = time.monotonic()
            say(f"{name} ...")
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            (directory / COMPLETE).touch()
            say(f"{name}: {time.monotonic() - started:.0f} s")
        return directory

    def prune(self) -> None:
        """Remove what no build has used for a month."""
        limit = time.time() - UNUSED_AFTER_S
        for marker in self.root.glob(f"*/{COMPLETE}"):
            if marker.stat().st_mtime < limit:
                shutil.rmtree(marker.parent)


def digest(inputs: Iterable[object]) -> str:
    """One hash of texts and of the contents of files."""
    total = hashlib.sha256()
    for one in inputs:
        data = one.read_bytes() if isinstance(one, Path) else str(one).encode()
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def recipe(*functions: Callable[..., object]) -> str:
    """The code of functions, as an input of a step: without comments and line breaks."""
    sources = (textwrap.dedent(inspect.getsource(function)) for function in functions)
    return "\n".join(ast.unparse(ast.parse(source)) for source in sources)


def run(
    *command: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        cwd: where.
        env: variables beside those of the build.
        log: a file that its output is added to.

    Returns:
        What it wrote.

    Raises:
        BuildError: it failed; the text has the end of what it wrote.
    """
    words = [str(word) for word in command]
    result = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if log is not None:
        with log.open("a") as file:
            file.write(f"+ {' '.join(words)}\n{result.stdout}")
    if result.returncode != 0:
        end = "\n".join(line[:300] for line in result.stdout.splitlines()[-30:])
        raise BuildError(
            f"{' '.join(words)[:400]}\nin {cwd} ended with {result.returncode}:\n{end}"
        )
    return result.stdout


def fetch(*command: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command that gets something from the network, as `run` does.

    Raises:
        FetchError: it failed.
    """
    try:
        return run(*command, cwd=cwd, env=env)
    except BuildError as exc:
        raise FetchError(str(exc)) from exc


def say(text: str) -> None:
    """One line for whoever waits."""
    sys.stderr.write(f"build: {text}\n")
