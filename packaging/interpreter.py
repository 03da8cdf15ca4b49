"""CPython as a static library: the interpreter, and of its own modules those that work here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cache import Cache, recipe, run
from sources import Source
from target import C_FLAGS, JOBS, Toolchain

# musl gives a thread 128 KiB, which deep recursion in C (json, re) overruns; Docker's Alpine images
# of Python choose this size too.
THREAD_STACK_BYTES = 0x100000

# CPython 3.11 has extended attributes (os.listxattr) for glibc only; musl has the same calls.
XATTR_FLAGS = "-DUSE_XATTRS -DXATTR_SIZE_MAX=65536 -DXATTR_LIST_MAX=65536"

# Modules that need a library which is not here, or a machine that no sandbox is.
LEFT_OUT = (
    *("_bz2", "_crypt", "_curses", "_curses_panel", "_dbm", "_elementtree", "_gdbm", "_lzma"),
    *("_sqlite3", "_tkinter", "_uuid", "audioop", "nis", "ossaudiodev", "pyexpat", "readline"),
    "spwd",
)
CTYPES_SOURCES = ("_ctypes", "callbacks", "callproc", "stgdict", "cfield")
CTYPES_FLAGS = (
    "-DPy_BUILD_CORE_MODULE",
    "-DHAVE_FFI_PREP_CIF_VAR=1",
    "-DHAVE_FFI_PREP_CLOSURE_LOC=1",
    "-DHAVE_FFI_CLOSURE_ALLOC=1",
)


@dataclass(frozen=True)
class Interpreter:
    """A built CPython.

    Args:
        tree: sources and what was made of them.
        source: which sources.
    """

    tree: Path
    source: Source

    @property
    def version(self) -> str:
        """`3.11`, as tags and directories have it."""
        return ".".join(self.source.version.split(".")[:2])

    @property
    def archives(self) -> list[Path]:
        """What a program with this interpreter is linked with."""
        library = self.tree / f"libpython{self.version}.a"
        return [library, self.tree / "Modules/_decimal/libmpdec/libmpdec.a"]

    @property
    def includes(self) -> list[str]:
        """Flags for code that uses it."""
        return [f"-I{self.tree / 'Include'}", f"-I{self.tree}"]

    @property
    def program(self) -> Path:
        """The interpreter itself: it compiles the bytecode, and runs only on this machine."""
        return self.tree / "python"


def make_interpreter(
    cache: Cache,
    toolchain: Toolchain,
    source: Source,
    libraries: Mapping[str, Path],
    native: Interpreter | None,
) -> Interpreter:
    """Configure and build.

    Args:
        cache: where it is kept.
        toolchain: what it is built with.
        source: of CPython.
        libraries: prefixes of zlib and OpenSSL.
        native: the same interpreter for this machine, to build one for another.
    """

    def make(directory: Path) -> None:
        tree = directory / "python"
        run("cp", "-a", source.tree, tree, cwd=directory)
        for patch in source.patches:
            run("patch", "--strip=1", "--fuzz=0", f"--input={patch}", cwd=tree)
        log = directory / "log"
        env = {**toolchain.env, **_variables(libraries)}
        run("./configure", *_options(toolchain, libraries, native), cwd=tree, env=env, log=log)
        setup = (tree / "Modules/Setup.stdlib").read_text()
        (tree / "Modules/Setup.local").write_text(setup.replace("*shared*", "*disabled*"))
        goals = ["python", "pybuilddir.txt"] if native is None else [f"libpython{version}.a"]
        # its build information has the date, which zig refuses to compile in
        flags = "EXTRA_CFLAGS=-Wno-date-time -Wno-error=date-time"
        run("make", f"-j{JOBS}", *goals, flags, cwd=tree, env=env, log=log)

    version = ".".join(source.version.split(".")[:2])
    paths = [libraries[name].name for name in ("zlib", "openssl")]
    code = recipe(make_interpreter, _variables, _options)
    inputs = [
        source.version,
        toolchain.bin.name,
        C_FLAGS,
        paths,
        THREAD_STACK_BYTES,
        XATTR_FLAGS,
        LEFT_OUT,
        *source.patches,
        code,
    ]
    made = cache.step(f"python-{toolchain.target.arch}", inputs, make)
    return Interpreter(made / "python", source)


def _variables(libraries: Mapping[str, Path]) -> dict[str, str]:
    flags = f"-fno-sanitize=all -DTHREAD_STACK_SIZE={THREAD_STACK_BYTES:#x} {XATTR_FLAGS}"
    return {
        "MODULE_BUILDTYPE": "static",
        "CC": "zcc",
        "CXX": "zcxx",
        "AR": "zar",
        "RANLIB": "zranlib",
        "READELF": "readelf",
        "CFLAGS": f"{flags} -I{libraries['zlib']}/include",
        "LDFLAGS": f"-static -L{libraries['zlib']}/lib",
        "LINKFORSHARED": " ",
        "OPT": "-DNDEBUG -O3 -g0",
        "ac_cv_func_dlopen": "no",
        "SOURCE_DATE_EPOCH": "0",
    }


def _options(
    toolchain: Toolchain, libraries: Mapping[str, Path], native: Interpreter | None
) -> list[str]:
    options = [
        "--prefix=/usr",
        "--disable-shared",
        "--disable-test-modules",
        "--without-ensurepip",
        f"--with-openssl={libraries['openssl']}",
        "--with-openssl-rpath=no",
        "py_cv_module__ctypes=n/a",  # built by hand, see make_ctypes
        *(f"py_cv_module_{name}=n/a" for name in LEFT_OUT),
    ]
    if native is not None:
        options += [
            f"--host={toolchain.target.zig}",
            f"--build={os.uname().machine}-linux-gnu",
            f"--with-build-python={native.program}",
            "ac_cv_file__dev_ptmx=yes",
            "ac_cv_file__dev_ptc=no",
            "ac_cv_buggy_getaddrinfo=no",
        ]
    return options
