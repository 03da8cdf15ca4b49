"""Compiles what is written in C, where there is a compiler: without it all works, but slower.

A hook of hatchling: `pip install`, editable or not, and `scripts/wheel` call it.
"""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = Path("sandbox_api/core/searches")
MODULE = PLACE / "_native.abi3.so"  # for each CPython from 3.11 on
FLAGS = (
    *("-O2", "-g0", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    "-Werror=implicit-function-declaration",  # what is not in the stable interface
)


class CompileHook(BuildHookInterface[Any]):
    """Puts the compiled module beside its source, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it makes a wheel, whatever its version."""
        del version
        root = Path(self.root)
        (root / MODULE).unlink(missing_ok=True)
        failure = _compile(root)
        if failure:
            self.app.display_warning(f"{MODULE} is left out: {failure}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["artifacts"].append(MODULE.as_posix())


def _compile(root: Path) -> str:
    """Make the module; returns why there is none, or nothing.

    Paths are relative, so that none of this machine gets into it.
    """
    sources = sorted(str(one.relative_to(root)) for one in (root / PLACE).glob("*.c"))
    compiler = shlex.split(os.environ.get("CC") or "cc")
    include = f"-I{sysconfig.get_path('include')}"
    command = [*compiler, *FLAGS, include, *sources, "-o", str(MODULE)]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError as exc:
        return f"no compiler: {exc}"
    if done.returncode == 0:
        return ""
    return done.stderr.strip() or f"exit status {done.returncode}"
