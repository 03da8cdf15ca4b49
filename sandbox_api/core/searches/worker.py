"""The process that searches by a regular expression, since that may take any time and memory.

It is started for one search, reads its request from descriptor 0, writes matches to descriptor 1 as
they are found, one JSON list per line, and last an object. The kernel ends it when its time is over
(setitimer(2)), whatever it does at that moment, and even if the daemon is gone.
"""

import json
import os
import re
import resource
import signal
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sandbox_api.core import linux
from sandbox_api.core.searches.expressions import Expression
from sandbox_api.core.searches.grep import Grep, GrepMatch, GrepQuery
from sandbox_api.core.searches.until import Until
from sandbox_api.core.walk import WalkScope
from sandbox_api.errors import InvalidError

MODULE: Final = "sandbox_api.core.searches.worker"
GRACE_S: Final = 0.5  # after its time, for a search that still can end by itself
MAX_MEMORY_BYTES: Final = 256 << 20  # of addresses
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest:
    """What the worker is to do.

    Attributes:
        root: absolute; a directory.
        query: what is looked for.
        timeout_s: the most seconds that it may take.
        user: uid, gid and groups to act on files as; None for the daemon's own.
    """

    root: str
    query: GrepQuery
    timeout_s: float
    user: tuple[int, int, tuple[int, ...]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnd:
    """How a search ended.

    Attributes:
        truncated: whether there may be more matches than were told.
        timed_out: whether the time was over.
        unreadable: how many files and directories could not be read.
        invalid: what is wrong with the request; empty where nothing is.
    """

    truncated: bool = False
    timed_out: bool = False
    unreadable: int = 0
    invalid: str = ""


def worker_command() -> list[str]:
    """The command line of a worker.

    The built file is no Python interpreter, but it knows these arguments (`__main__.py`).
    """
    return [sys.executable, "-P", "-S", "-s", "-m", MODULE]


def worker_environment() -> dict[str, str]:
    """All that a worker inherits: where this package is."""
    return {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONWARNINGS": "ignore"}


def encode_request(request: WorkerRequest) -> bytes:
    """A request as the worker reads it."""
    value = asdict(request)
    scope = value["query"]["scope"]
    scope["exclude_directories"] = sorted(scope["exclude_directories"])
    return json.dumps(value).encode()


def decode_request(data: bytes) -> WorkerRequest:
    """The inverse of `encode_request`."""
    value = json.loads(data)
    scope = value["query"]["scope"]
    scope["exclude_directories"] = frozenset(scope["exclude_directories"])
    value["query"]["scope"] = WalkScope(**scope)
    value["query"] = GrepQuery(**value["query"])
    if value["user"] is not None:
        uid, gid, groups = value["user"]
        value["user"] = uid, gid, tuple(groups)
    return WorkerRequest(**value)


def decode_answer(data: bytes) -> tuple[list[GrepMatch], WorkerEnd | None]:
    """What a worker has written.

    Returns:
        The matches, and how it ended; None where it was ended before it could say so.
    """
    matches: list[GrepMatch] = []
    for line in data.split(b"\n")[:-1]:
        value = json.loads(line)
        if isinstance(value, dict):
            return matches, WorkerEnd(**value)
        raw = value[1]
        value[1] = None if raw is None else bytes.fromhex(raw)
        matches.append(GrepMatch(*value))
    return matches, None


def main() -> int:
    """Do what descriptor 0 says."""
    request = decode_request(_read_all(0))
    signal.setitimer(signal.ITIMER_REAL, request.timeout_s + GRACE_S)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    warnings.simplefilter("ignore")  # about expressions that will mean something else one day
    if request.user is not None:
        linux.set_thread_identity(*request.user)
    end = _search(request)
    _write_all(json.dumps(asdict(end)).encode() + b"\n")
    return 0


def _search(request: WorkerRequest) -> WorkerEnd:
    query, until = request.query, Until(request.timeout_s)
    try:
        matcher = Expression(query.text, case_sensitive=query.case_sensitive)
        grep = Grep(request.root, query, matcher, until, _emit)
        grep.run()
    except (re.error, RecursionError, OverflowError) as exc:
        return WorkerEnd(invalid=f"invalid regular expression: {exc}")
    except MemoryError:
        return WorkerEnd(invalid="invalid regular expression: it takes too much memory")
    except InvalidError as exc:
        return WorkerEnd(invalid=exc.message)
    except OSError:  # the root, which could be read a moment ago
        return WorkerEnd(unreadable=1)
    return WorkerEnd(
        truncated=grep.truncated or until.timed_out,
        timed_out=until.timed_out,
        unreadable=grep.unreadable,
    )


def _emit(match: GrepMatch) -> None:
    raw = None if match.raw_path is None else match.raw_path.hex()
    _write_all(json.dumps([match.path, raw, *match[2:]], ensure_ascii=False).encode() + b"\n")


def _read_all(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, _READ_BYTES), b""))


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    sys.exit(main())
