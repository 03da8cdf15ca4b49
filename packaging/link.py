"""The last step: everything into one executable, and a look at whether it is what it should be."""

from pathlib import Path

from bundle import RUNTIME
from cache import BuildError, run
from extensions import Extension
from interpreter import Interpreter
from target import C_FLAGS, Toolchain

OWN = ("dl", "strerror", "trust")  # in place of functions of the C library and of OpenSSL


def link(
    toolchain: Toolchain,
    interpreter: Interpreter,
    libraries: dict[str, Path],
    extensions: list[Extension],
    work: Path,
) -> tuple[Path, Path]:
    """Link the daemon and the checker.

    Args:
        toolchain: what it is linked with.
        interpreter: for the target.
        libraries: prefixes of OpenSSL, zlib and libffi.
        extensions: what is built in beside CPython's own modules.
        work: holds `bundle.bin` and `frozen.h`; the results are written here.

    Returns:
        The daemon, and the same program that runs a script instead (runtime/main.c).
    """
    (work / "builtins.h").write_text(_builtins(extensions))
    objects = [_compile(toolchain, interpreter, work, name) for name in OWN]
    archives = [libraries[name] / f"lib/{file}" for name, file in (
        ("openssl", "libssl.a"), ("openssl", "libcrypto.a"), ("zlib", "libz.a"),
        ("libffi", "libffi.a"))]  # fmt: skip
    results = []
    for program, flags in (("sandbox-api", []), ("checker", ["-DCHECKER"])):
        main = _compile(toolchain, interpreter, work, "main", f"{program}.o", *flags)
        run("zcxx", "-static", "-s", "-O2", "-Wl,--gc-sections", "-Wl,--eh-frame-hdr",
            "-Wl,-z,stack-size=8388608", "-o", program, main, *objects,
            *(one.object for one in extensions), *interpreter.archives, *archives, "-lm",
            cwd=work, env=toolchain.env)  # fmt: skip
        results.append(work / program)
    return results[0], results[1]


def _builtins(extensions: list[Extension]) -> str:
    rows = "".join(f' \\\n    X("{one.name}", {one.init})' for one in extensions)
    return f"#define BUILTINS(X){rows}\n"


def _compile(
    toolchain: Toolchain,
    interpreter: Interpreter,
    work: Path,
    name: str,
    output: str = "",
    *flags: str,
) -> Path:
    """The stamp: zig keeps objects, and does not see that the bundle has changed."""
    compiled = work / (output or f"{name}.o")
    stamp = (work / "bundle.bin").stat().st_mtime_ns
    run("zcc", *C_FLAGS, "-w", *interpreter.includes, f"-I{work}", f"-DSTAMP={stamp}", *flags,
        "-c", RUNTIME / f"{name}.c", "-o", compiled, cwd=work, env=toolchain.env)  # fmt: skip
    return compiled


def check(toolchain: Toolchain, program: Path, *paths: Path) -> None:
    """Static, no loader, and no path of this machine in it.

    Raises:
        BuildError: it is not so.
    """
    readelf = toolchain.binutil("readelf")
    headers = run(readelf, "--program-headers", "--dynamic", "--wide", program, cwd=program.parent)
    if "INTERP" in headers or "NEEDED" in headers:
        raise BuildError(f"{program} is not static:\n{headers}")
    content = program.read_bytes()
    for path in paths:
        if (at := content.find(str(path).encode())) >= 0:
            raise BuildError(f"{program} names a path of this machine: {content[at : at + 200]!r}")
