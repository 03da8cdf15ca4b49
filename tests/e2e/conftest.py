"""What end-to-end tests share: nothing that they start outlives them."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.roots import MAKERS, Roots


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    """Commands outlive their daemon; they are known by the HOME that they inherited from it."""
    yield
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is not ours to look at
            if f"HOME={tmp_path}".encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """`roots("musl")`: a root file system, made once."""
    made: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            directory.chmod(0o755)
            MAKERS[name](directory)
            made[name] = directory
        return made[name]

    return root
