"""Compiled parts, ours and dependencies': each one object that exports its init function only."""

import os
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import BuildError, Cache, fetch, recipe, run
from interpreter import CTYPES_FLAGS, CTYPES_SOURCES, Interpreter
from sources import PINS, Source, fetch_sdist, locked
from target import C_FLAGS, HERE, JOBS, ROOT, Toolchain

RECIPES: dict[str, Any] = tomllib.loads((HERE / "extensions.toml").read_text())
FLAGS = (*C_FLAGS, "-fPIC", "-fvisibility=hidden", "-w")
NATIVE = "sandbox_api.core.searches._native"


@dataclass(frozen=True)
class Extension:
    """A compiled module.

    Args:
        name: with its package.
        object: the file to link.
    """

    name: str
    object: Path

    @property
    def init(self) -> str:
        """Its init function, with its package: `PyInit_aiohttp___websocket__mask`."""
        return "PyInit_" + self.name.replace(".", "__")


@dataclass(frozen=True)
class Builder:
    """What every extension is built with."""

    cache: Cache
    toolchain: Toolchain
    interpreter: Interpreter

    @property
    def arch(self) -> str:
        """Part of the names of steps."""
        return self.toolchain.target.arch

    def inputs(self, *more: object) -> list[object]:
        """What every step depends on, and more."""
        code = recipe(compile_c, join)
        return [self.toolchain.bin.name, self.interpreter.tree.parent.name, FLAGS, code, *more]


def make_extensions(builder: Builder, packages: Path) -> tuple[list[Extension], list[Source]]:
    """All compiled modules of the locked packages, and the sources that they come from.

    Args:
        builder: what they are built with.
        packages: where the wheels of the same packages are unpacked.

    Raises:
        BuildError: a package has compiled parts and no recipe.
    """
    missing = sorted(_compiled_modules(packages) - _known_modules())
    if missing:
        raise BuildError(f"packaging/extensions.toml does not say how to build {missing}")
    wanted = [name for name in RECIPES if name in locked()]
    sources = [fetch_sdist(builder.cache, builder.toolchain.tools, name) for name in wanted]
    extensions = [one for source in sources for one in _make_package(builder, source)]
    return extensions, sources


def _compiled_modules(packages: Path) -> set[str]:
    """What the wheels have, but for what tests only need."""
    return {
        ".".join(path.relative_to(packages).with_name(path.name.partition(".")[0]).parts)
        for path in packages.rglob("*.so")
        if not path.name.startswith("_test")
    }


def _known_modules() -> set[str]:
    left_out = {name for one in RECIPES.values() for name in one.get("left_out", ())}
    return left_out | {module["name"] for one in RECIPES.values() for module in one["modules"]}


def _make_package(builder: Builder, source: Source) -> Iterator[Extension]:
    for one in RECIPES[source.name]["modules"]:
        module = {"flags": RECIPES[source.name].get("flags", []), **one}
        yield (_make_crate if "crate" in module else _make_module)(builder, source, module)


def _make_module(builder: Builder, source: Source, module: dict[str, Any]) -> Extension:
    """C, C++ and Cython."""
    name = module["name"]
    language = module.get("language", "c")

    def make(directory: Path) -> None:
        def compile_one(numbered: tuple[int, str]) -> Path:
            number, path = numbered
            text = _translate(builder, source.tree / path, language, directory)
            flags = [flag.format(source=source.tree) for flag in module.get("flags", [])]
            return compile_c(builder, text, directory / f"{number}.o", *flags)

        with ThreadPoolExecutor(int(JOBS)) as pool:
            objects = list(pool.map(compile_one, enumerate(module["sources"])))
        join(builder, name, objects, directory, is_cpp=language == "c++")

    inputs = builder.inputs(source.version, module, recipe(_make_module, _translate))
    step = builder.cache.step(f"{name}-{builder.arch}", inputs, make)
    return Extension(name, step / "module.o")


def _translate(builder: Builder, path: Path, language: str, directory: Path) -> Path:
    """C or C++ of a Cython file; any other as it is."""
    if path.suffix != ".pyx":
        return path
    text = directory / path.with_suffix(".cpp" if language == "c++" else ".c").name
    options = ["--cplus"] if language == "c++" else []
    cython = builder.toolchain.tools / "bin/cython"
    run(cython, "-3", *options, path.name, "-o", text, cwd=path.parent)
    return text


def compile_c(builder: Builder, source: Path, output: Path, *flags: str) -> Path:
    """Compile one file of C or C++; returns the object."""
    compiler = "zcc" if source.suffix == ".c" else "zcxx"
    standard = [flag for flag in flags if compiler == "zcxx" or not flag.startswith("-std=c++")]
    run(compiler, *FLAGS, *builder.interpreter.includes, *standard, "-c", source, "-o", output,
        cwd=output.parent, env=builder.toolchain.env)  # fmt: skip
    return output


def join(
    builder: Builder, name: str, objects: list[Path], directory: Path, *, is_cpp: bool = False
) -> None:
    """One `module.o` of several, with no global symbol but the init function.

    C++ keeps the others: groups of inline functions must be merged across objects, not hidden.
    """
    init = "PyInit_" + name.rpartition(".")[2]
    output = directory / "module.o"
    ld, objcopy = builder.toolchain.binutil("ld"), builder.toolchain.binutil("objcopy")
    run(ld, "-r", "-o", output, *objects, cwd=directory)
    if not is_cpp:
        run(objcopy, f"--keep-global-symbol={init}", output, cwd=directory)
    rename = f"--redefine-sym={init}={Extension(name, output).init}"
    run(objcopy, rename, "--strip-debug", output, cwd=directory)


def _make_crate(builder: Builder, source: Source, module: dict[str, Any]) -> Extension:
    """A Rust crate: a static library, of which only what the module needs is taken."""
    name, crate = module["name"], module["crate"]
    rust = builder.toolchain.target.rust

    def make(directory: Path) -> None:
        config = directory / "pyo3.txt"
        config.write_text(
            f"implementation=CPython\nversion={builder.interpreter.version}\nshared=false\n"
            "abi3=false\nbuild_flags=\nsuppress_build_script_link_lines=true\npointer_width=64\n"
        )
        env = _cargo_variables(builder, source, config, directory)
        cargo = fetch_crates(builder, source)
        run(*cargo, "rustc", "--quiet", "--offline", "--release", "--lib", "--locked",
            "--crate-type", "staticlib", "--target", rust, f"--jobs={JOBS}",
            cwd=source.tree, env=env, log=directory / "log")  # fmt: skip
        library = directory / "target" / rust / "release" / f"lib{crate}.a"
        whole = directory / "whole.o"
        run(builder.toolchain.binutil("ld"), "-r", "--force-group-allocation", "--gc-sections",
            "-u", f"PyInit_{crate}", "-o", whole, library, cwd=directory)  # fmt: skip
        join(builder, name, [whole], directory)
        run("rm", "-rf", directory / "target", whole, cwd=directory)

    code = recipe(_make_crate, _cargo_variables, join)
    compilers = [builder.toolchain.bin.name, builder.interpreter.version, PINS["rust"]]
    inputs = [*compilers, source.version, module, code]
    step = builder.cache.step(f"{name}-{builder.arch}", inputs, make)
    return Extension(name, step / "module.o")


def fetch_crates(builder: Builder, source: Source) -> tuple[str, str]:
    """Get the pinned Rust and the crates of a Cargo.lock; returns the command of that cargo."""
    version, rust = PINS["rust"]["version"], builder.toolchain.target.rust
    cargo = ("cargo", f"+{version}")
    if version not in run("rustup", "toolchain", "list", cwd=source.tree):
        fetch("rustup", "toolchain", "install", version, "--profile=minimal", cwd=source.tree)
    if rust not in run("rustup", "target", "list", "--toolchain", version, "--installed",
                       cwd=source.tree):  # fmt: skip
        fetch("rustup", "target", "add", "--toolchain", version, rust, cwd=source.tree)
    fetch(*cargo, "fetch", "--quiet", "--locked", cwd=source.tree)
    return cargo


def _cargo_variables(
    builder: Builder, source: Source, config: Path, directory: Path
) -> dict[str, str]:
    """Paths of this machine do not get into messages of panics."""
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    remapped = {home / "registry/src": "/crates", source.tree: "/source", directory: "/build"}
    flags = [f"--remap-path-prefix={old}={new}" for old, new in remapped.items()]
    target = builder.toolchain.target
    return {
        **builder.toolchain.env,
        "RUSTFLAGS": " ".join(flags),
        "CARGO_TARGET_DIR": str(directory / "target"),
        "PYO3_CONFIG_FILE": str(config),
        "PYO3_PYTHON": str(builder.toolchain.tools / "bin/python"),
        f"CC_{target.machine}_unknown_linux_musl": "zcc",
        f"AR_{target.machine}_unknown_linux_musl": "zar",
    }


def make_ctypes(builder: Builder, libffi: Path) -> Extension:
    """CPython's _ctypes, which its own build makes as a shared library only."""

    def make(directory: Path) -> None:
        tree = builder.interpreter.tree
        flags = [*CTYPES_FLAGS, f"-I{tree / 'Include/internal'}", f"-I{libffi / 'include'}"]
        objects = [
            compile_c(builder, tree / f"Modules/_ctypes/{one}.c", directory / f"{one}.o", *flags)
            for one in CTYPES_SOURCES
        ]
        join(builder, "_ctypes", objects, directory)

    inputs = builder.inputs(libffi.name, CTYPES_FLAGS)
    step = builder.cache.step(f"_ctypes-{builder.arch}", inputs, make)
    return Extension("_ctypes", step / "module.o")


def make_native(builder: Builder) -> Extension:
    """The compiled module of this project."""
    place = (ROOT / NATIVE.replace(".", "/")).parent
    sources, headers = sorted(place.glob("*.c")), sorted(place.glob("*.h"))

    def make(directory: Path) -> None:
        objects = [compile_c(builder, one, directory / f"{one.stem}.o") for one in sources]
        join(builder, NATIVE, objects, directory)

    step = builder.cache.step(f"{NATIVE}-{builder.arch}", builder.inputs(*sources, *headers), make)
    return Extension(NATIVE, step / "module.o")
