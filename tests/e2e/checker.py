"""The checker: the built file, but it runs a script (packaging/runtime/main.c)."""

import subprocess
from pathlib import Path

from tests.e2e.roots import CHECKER, DEADLINE_S, EMULATE, LAUNCH


def run(*command: object, **variables: str) -> str:
    """The output of a program that succeeds."""
    result = subprocess.run(
        [*EMULATE, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env={**LAUNCH, **variables},
        timeout=3 * DEADLINE_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


class Check:
    """The checker, with a script of its own."""

    def __init__(self, directory: Path) -> None:
        self._script = directory / "script.py"

    def __call__(self, script: str, *arguments: object, **variables: str) -> str:
        self._script.write_text(script)
        return run(CHECKER, self._script, *arguments, **variables).strip()
