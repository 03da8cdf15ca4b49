"""The C libraries under the interpreter: zlib, OpenSSL, libffi, each as a static archive."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cache import Cache, recipe, run
from sources import Source
from target import C_FLAGS, JOBS, Toolchain

# What nobody here speaks, and what a program that loads nothing at run time cannot have.
OPENSSL_OPTIONS = (
    *("no-shared", "no-dso", "no-engine", "no-module", "no-tests", "no-legacy", "no-async"),
    *("no-comp", "no-idea", "no-rc2", "no-rc4", "no-cast", "no-seed", "no-bf", "no-md4", "no-mdc2"),
    *("no-whirlpool", "no-camellia", "no-aria", "no-sm2", "no-sm3", "no-sm4", "no-gost", "no-srp"),
    *("no-ct", "no-cmp", "no-cms", "no-ts", "no-ssl3", "no-dtls"),
)


def make_libraries(
    cache: Cache, toolchain: Toolchain, sources: Mapping[str, Source]
) -> dict[str, Path]:
    """A prefix with `include/` and `lib/` for each library, by name."""
    return {
        name: _make_library(cache, toolchain, sources[name], build)
        for name, build in _RECIPES.items()
    }


def _make_library(
    cache: Cache,
    toolchain: Toolchain,
    source: Source,
    build: Callable[[Toolchain, Path, Path], None],
) -> Path:
    def make(directory: Path) -> None:
        work = directory / "build"
        run("cp", "-a", source.tree, work, cwd=directory)
        build(toolchain, work, directory)
        run("rm", "-rf", work, cwd=directory)

    inputs = [source.version, toolchain.bin.name, C_FLAGS, OPENSSL_OPTIONS, recipe(build)]
    return cache.step(f"{source.name}-{toolchain.target.arch}", inputs, make)


def _programs(toolchain: Toolchain) -> dict[str, str]:
    names = {"CC": "zcc", "AR": "zar", "RANLIB": "zranlib", "CFLAGS": " ".join(C_FLAGS)}
    return {**toolchain.env, **names}


def _zlib(toolchain: Toolchain, work: Path, prefix: Path) -> None:
    env = {**_programs(toolchain), "CHOST": toolchain.target.zig, "uname": "Linux"}
    run("./configure", "--static", f"--prefix={prefix}", cwd=work, env=env)
    run("make", f"-j{JOBS}", "libz.a", cwd=work, env=env)
    for name, folder in (("libz.a", "lib"), ("zlib.h", "include"), ("zconf.h", "include")):
        (prefix / folder).mkdir(exist_ok=True)
        run("cp", name, prefix / folder, cwd=work)


def _openssl(toolchain: Toolchain, work: Path, prefix: Path) -> None:
    """The prefix is /usr, since it is compiled in; the files go elsewhere."""
    env = _programs(toolchain)
    run("./Configure", toolchain.target.openssl, *OPENSSL_OPTIONS, "--prefix=/usr", "--libdir=lib",
        "--openssldir=/etc/ssl", cwd=work, env=env)  # fmt: skip
    run("make", f"-j{JOBS}", "build_libs", cwd=work, env=env)
    run("make", "install_dev", f"DESTDIR={prefix}/root", cwd=work, env=env)
    for folder in ("lib", "include"):
        (prefix / "root/usr" / folder).rename(prefix / folder)


def _libffi(toolchain: Toolchain, work: Path, prefix: Path) -> None:
    """clang refuses a call of a function that src/tramp.c does not declare; it returns an int."""
    env = _programs(toolchain)
    env["CFLAGS"] += " -Wno-error=implicit-function-declaration"
    run("./configure", f"--host={toolchain.target.zig}", "--disable-shared", "--enable-static",
        "--disable-docs", f"--prefix={prefix}", "--libdir", prefix / "lib",
        "--disable-multi-os-directory", cwd=work, env=env)  # fmt: skip
    run("make", f"-j{JOBS}", "install", cwd=work, env=env)


_RECIPES = {"zlib": _zlib, "openssl": _openssl, "libffi": _libffi}
