"""The last step: everything into one executable, and a look at whether it is what it should be."""

from collections.abc import Mapping
from pathlib import Path

from bundle import RUNTIME
from cache import BuildError, run
from elf import BUNDLE_ADDRESS, HEAP_ADDRESS
from extensions import Builder, Extension
from sources import Source
from target import C_FLAGS, Toolchain

# Ours, and in place of functions of the C library and of OpenSSL
OWN = (
    *("main", "bundle", "snapshot", "immortal", "allocator", "trim", "clock", "dl", "strerror"),
    "trust",
)


def link(
    builder: Builder,
    libraries: Mapping[str, Path],
    allocator: Source,
    extensions: list[Extension],
    work: Path,
) -> Path:
    """Link the program, which has no bundle yet.

    Args:
        builder: what it is linked with, and the interpreter.
        libraries: prefixes of OpenSSL, zlib and libffi.
        allocator: sources that have dlmalloc.
        extensions: what is built in beside CPython's own modules.
        work: holds `frozen.h`; the result is written here.
    """
    (work / "builtins.h").write_text(_builtins(extensions))
    directories = (work, allocator.tree, libraries["openssl"] / "include")
    includes = [*builder.interpreter.includes, *(f"-I{one}" for one in directories)]
    addresses = [f"-DBUNDLE_ADDRESS={BUNDLE_ADDRESS:#x}", f"-DHEAP_ADDRESS={HEAP_ADDRESS:#x}"]
    flags = includes + addresses
    objects = [_compile(builder.toolchain, work, name, flags) for name in OWN]
    archives = [libraries[name] / f"lib/{file}" for name, file in (
        ("openssl", "libssl.a"), ("openssl", "libcrypto.a"), ("zlib", "libz.a"),
        ("libffi", "libffi.a"))]  # fmt: skip
    run("zcxx", "-static", "-s", "-O2", "-Wl,--gc-sections", "-Wl,--eh-frame-hdr",
        "-Wl,-z,stack-size=8388608", "-o", "linked", *objects,
        *(one.object for one in extensions), *builder.interpreter.archives, *archives, "-lm",
        cwd=work, env=builder.toolchain.env)  # fmt: skip
    return work / "linked"


def _builtins(extensions: list[Extension]) -> str:
    rows = "".join(f' \\\n    X("{one.name}", {one.init})' for one in extensions)
    return f"#define BUILTINS(X){rows}\n"


def _compile(toolchain: Toolchain, work: Path, name: str, flags: list[str]) -> Path:
    compiled = work / f"{name}.o"
    run("zcc", *C_FLAGS, "-w", *flags, "-c", RUNTIME / f"{name}.c", "-o", compiled,
        cwd=work, env=toolchain.env)  # fmt: skip
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
