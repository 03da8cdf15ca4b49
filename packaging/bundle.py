"""What the executable carries beside compiled code: bytecode of modules, files of the package.

The format is that of runtime/layout.h and runtime/bundle.c.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cache import Cache, run
from interpreter import Interpreter
from target import HERE, ROOT

RUNTIME = HERE / "runtime"
PACKAGE = ROOT / "sandbox_api"
ORIGIN = "/<sandbox-api>"  # as in runtime/importer.py
MODULE, PACKAGE_KIND, ASSET = range(3)
NO_ASSETS = {".py", ".pyc", ".pyi", ".c", ".h", ".so"}
RUN, DUMP, SCRIPT = range(3)
_HEADER = struct.Struct("<IIIIQ")

Item = tuple[str, int, bytes]  # name, kind, data

# Needed before the importer works.
FROZEN = ("encodings", "encodings.aliases", "encodings.utf_8", "encodings.latin_1")

# Parts of the standard library that need a compiled module which is not here, or that are programs.
SKIPPED = re.compile(
    r"(__pycache__|test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|distutils|pydoc_data"
    r"|sqlite3|curses|dbm|msilib|venv|wsgiref|xmlrpc|xml|unittest|__phello__)/"
    r"|(turtle|antigravity|this|__hello__|pip-.*|.*\.dist-info)(\.py|/)"
    r"|^(pydoc|doctest|pdb|bdb|profile|cProfile|pstats|trace|modulefinder|pickletools|mailbox|imaplib"
    r"|nntplib|poplib|smtpd|smtplib|ftplib|telnetlib|webbrowser|aifc|sunau|wave|chunk|xdrlib|cgi|cgitb"
    r"|optparse|plistlib|filecmp|fileinput|tabnanny|pyclbr|zipapp|timeit|symtable|code|codeop|cmd)\.py$"
)


@dataclass(frozen=True)
class Module:
    """One module: its name, where its source is, and how tracebacks call the file."""

    name: str
    path: Path
    shown: str
    is_package: bool


def find_modules(directory: Path) -> Iterator[Module]:
    """All modules below a directory that is on a path of modules."""
    for path in sorted(directory.rglob("*.py")):
        relative = path.relative_to(directory)
        parts = relative.with_suffix("").parts
        if SKIPPED.search(relative.as_posix()) or not all(part.isidentifier() for part in parts):
            continue
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, path, f"{ORIGIN}/{relative}", is_package)


def make_bundle(
    cache: Cache, interpreter: Interpreter, packages: Path, facts: str, output: Path
) -> list[Item]:
    """What the executable carries; and `frozen.h`, which is linked into it.

    Args:
        cache: where compiled bytecode is kept, so that only what has changed is compiled.
        interpreter: a native one; it compiles.
        packages: the installed dependencies.
        facts: the text of `sandbox_api/build.py`.
        output: the directory that `frozen.h` is written to.
    """
    facts_path = output / "build.py"
    facts_path.write_text(facts)
    modules = {one.name: one for one in _all_modules(interpreter, packages)}
    modules["sandbox_api.build"] = _replace(modules["sandbox_api.build"], facts_path)
    frozen = [
        *(modules[name] for name in FROZEN),
        Module("_importer", RUNTIME / "importer.py", f"{ORIGIN}/_importer.py", is_package=False),
        Module("_start", RUNTIME / "start.py", f"{ORIGIN}/_start.py", is_package=False),
    ]
    code = _compile(cache, interpreter, [*modules.values(), *frozen], output)
    items = [
        (one.name, PACKAGE_KIND if one.is_package else MODULE, code[one.path, one.shown])
        for one in modules.values()
    ]
    items += [(name, ASSET, path.read_bytes()) for name, path in _assets()]
    (output / "frozen.h").write_text(
        _frozen_table([(one, code[one.path, one.shown]) for one in frozen])
    )
    return items


def _replace(module: Module, path: Path) -> Module:
    return Module(module.name, path, module.shown, module.is_package)


def _all_modules(interpreter: Interpreter, packages: Path) -> Iterator[Module]:
    """Later ones win: what is replaced, and why, says the file that comes instead."""
    yield from find_modules(interpreter.tree / "Lib")
    yield from find_modules(packages)
    for one in find_modules(ROOT):
        if one.name.partition(".")[0] == PACKAGE.name:
            yield one
    replaced = {"ctypes.util": "ctypes_util.py"}
    for machine in ("x86_64", "aarch64"):  # as Debian's patches call it
        replaced[f"_sysconfigdata__{machine}-linux-gnu"] = "sysconfig_data.py"
    for name, file in replaced.items():
        yield Module(name, RUNTIME / file, f"{ORIGIN}/{file}", is_package=False)


def _assets() -> Iterator[tuple[str, Path]]:
    """Files of the package that are no code."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix not in NO_ASSETS and path.name != "ruff.toml":
            yield path.relative_to(ROOT).as_posix(), path


def _compile(
    cache: Cache, interpreter: Interpreter, modules: list[Module], output: Path
) -> dict[tuple[Path, str], bytes]:
    """The marshalled code of each module; what has not changed comes from the cache."""
    kept = cache.root / f"bytecode-{interpreter.tree.parent.name}"
    kept.mkdir(exist_ok=True)
    places = {}
    for one in modules:
        key = hashlib.sha256(one.shown.encode() + b"\0" + one.path.read_bytes()).hexdigest()
        places[one.path, one.shown] = kept / key
    jobs = [(str(path), shown, str(place)) for (path, shown), place in places.items()
            if not place.exists()]  # fmt: skip
    if jobs:
        todo = output / "modules.json"
        todo.write_text(json.dumps(jobs))
        run(interpreter.program, "-B", "-S", HERE / "compile_modules.py", todo, cwd=output)
    return {key: place.read_bytes() for key, place in places.items() if place.exists()}


def pack(items: list[Item], purpose: int) -> bytes:
    """The bundle as runtime/bundle.c reads it.

    Args:
        items: what is in it.
        purpose: RUN, DUMP or SCRIPT: what the program that has it does.
    """
    entries, names, data = [], bytearray(), bytearray()
    for name, kind, content in sorted(items, key=lambda item: item[0].encode()):
        entries.append(struct.pack("<IIII", len(names), len(data), len(content), kind))
        names += name.encode() + b"\0"
        data += content
    index = b"".join(entries)
    names_at = _HEADER.size + len(index)
    data_at = names_at + len(names)
    header = _HEADER.pack(len(entries), names_at, data_at, purpose, data_at + len(data))
    return header + index + bytes(names) + bytes(data)


def _frozen_table(modules: list[tuple[Module, bytes]]) -> str:
    """C source of the table that CPython asks before there is an importer."""
    arrays, rows = [], []
    for number, (one, code) in enumerate(modules):
        arrays.append(
            f"static const unsigned char code_{number}[] = {{{','.join(map(str, code))}}};"
        )
        kind = int(one.is_package)
        rows.append(f'    {{"{one.name}", code_{number}, sizeof code_{number}, {kind}, NULL}},')
    table = ["static const struct _frozen frozen_modules[] = {", *rows, "    {NULL},", "};"]
    return "\n".join([*arrays, *table]) + "\n"
