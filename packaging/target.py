"""What a file is built for, and the compilers that do it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cache import BuildError, Cache, fetch, run

HERE = Path(__file__).parent
ROOT = HERE.parent
SITE = HERE / "config.site"  # what configure scripts cannot find out for another machine
CARGO_HOME = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
JOBS = os.environ.get("SANDBOX_BUILD_JOBS") or str(os.cpu_count() or 1)

# zig's default traps undefined behaviour; what is built here is what everybody builds without that.
C_FLAGS = ("-O2", "-g0", "-DNDEBUG", "-fno-sanitize=all", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True)
class Target:
    """One architecture, as each of the tools calls it."""

    arch: str  # as in the name of the file
    machine: str  # as in uname(2)
    openssl: str
    binutils: str  # prefix of the programs
    cargo: str  # the prefix of cargo's variables for the target
    oldest_cpu: str  # that the file runs on, as qemu calls it

    @property
    def zig(self) -> str:
        """As zig and configure scripts call it."""
        return f"{self.machine}-linux-musl"

    @property
    def rust(self) -> str:
        """As rustup and cargo call it."""
        return f"{self.machine}-unknown-linux-musl"

    @property
    def is_native(self) -> bool:
        """Whether programs for the target run on this machine."""
        return os.uname().machine == self.machine


TARGETS = {
    "amd64": Target("amd64", "x86_64", "linux-x86_64", "x86_64-linux-gnu-", "X86_64", "qemu64"),
    "arm64": Target(
        "arm64", "aarch64", "linux-aarch64", "aarch64-linux-gnu-", "AARCH64", "cortex-a53"
    ),
}


@dataclass(frozen=True)
class Toolchain:
    """Programs that build for a target.

    Args:
        target: what for.
        tools: the Python environment that has zig, Cython and the rest of tools.lock.
        bin: the directory of the wrappers `zcc`, `zcxx`, `zar`, `zranlib`.
    """

    target: Target
    tools: Path
    bin: Path

    @property
    def env(self) -> dict[str, str]:
        """Variables under which the wrappers, and the tools, are found."""
        cross = {} if self.target.is_native else {"CONFIG_SITE": str(SITE)}
        return {"PATH": f"{self.bin}:{self.tools / 'bin'}:{os.environ['PATH']}", **cross}

    def binutil(self, name: str) -> str:
        """A program of the GNU binutils: `ld`, `objcopy`, `readelf`."""
        return f"{self.target.binutils}{name}"


def check_programs(target: Target) -> None:
    """What no step makes has to be there before the first begins.

    Raises:
        BuildError: it is not; names what.
    """
    wanted = ("apt-get", "cc", "dpkg-source", "make", "patch", "perl", "rustup", "xz")
    binutils = (f"{one.binutils}ld" for one in TARGETS.values() if one.is_native or one == target)
    missing = [name for name in (*wanted, *binutils) if shutil.which(name) is None]
    if missing:
        names = ", ".join(missing)
        raise BuildError(f"not installed: {names}; run packaging/prerequisites")


def make_tools(cache: Cache) -> Path:
    """A Python environment with zig and what else the build needs, pinned in tools.lock."""
    lock = HERE / "tools.lock"

    def make(directory: Path) -> None:
        run("python3", "-m", "venv", directory, cwd=directory)
        pip = (directory / "bin/python", "-m", "pip", "--quiet")
        fetch(*pip, "install", "--no-deps", "--require-hashes", "-r", lock, cwd=directory)

    return cache.step("tools", [lock], make)


def make_toolchain(cache: Cache, target: Target) -> Toolchain:
    """Wrappers around zig, which has a compiler and musl for every target."""
    tools = make_tools(cache)
    (zig,) = tools.glob("lib/python3*/site-packages/ziglang/zig")
    # configure scripts look for programs by name, and what is compiled in names no path of ours
    wrappers = {
        "zcc": f"cc -target {target.zig} -ffile-prefix-map={cache.root}=.",
        "zcxx": f"c++ -target {target.zig} -ffile-prefix-map={cache.root}=.",
        "zar": "ar",
        "zranlib": "ranlib",
    }

    def make(directory: Path) -> None:
        for name, arguments in wrappers.items():
            text = (
                f"#!/bin/sh\nexport ZIG_GLOBAL_CACHE_DIR={cache.root}/zig\n"
                f'export ZIG_LOCAL_CACHE_DIR={cache.root}/zig\nexec {zig} {arguments} "$@"\n'
            )
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)

    answers = [] if target.is_native else [SITE]
    made = cache.step(f"toolchain-{target.arch}", [zig.as_posix(), wrappers, *answers], make)
    return Toolchain(target, tools, made)
