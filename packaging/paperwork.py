"""What is in the file: its checksum, its SBOM, and the licences of all that is linked in."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from bundle import PACKAGE
from cache import run
from extensions import Builder, fetch_crates
from sources import PINS, Source
from target import HERE

LICENCE_FILES = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


@dataclass(frozen=True)
class Component:
    """One piece of software in the file.

    Args:
        kind: of a package URL: `pypi`, `cargo`, `deb`, `npm`, `generic`.
        name: of the package.
        version: of it.
        licence: an SPDX expression, or how the package says it.
        texts: files with its licence.
    """

    kind: str
    name: str
    version: str
    licence: str
    texts: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def purl(self) -> str:
        """Its package URL."""
        name = f"debian/{self.name}" if self.kind == "deb" else self.name
        return f"pkg:{self.kind}/{name}@{self.version}"


def collect(
    builder: Builder, sources: Mapping[str, Source], packages: Path, sdists: Iterable[Source]
) -> list[Component]:
    """All components, each once, in the order of their kinds and names."""
    found = {
        *_from_debian(sources),
        *_from_zig(builder),
        *_from_wheels(packages),
        *_from_npm(),
        *(one for sdist in sdists for one in _from_crates(builder, sdist)),
    }
    return sorted(found, key=lambda one: (one.kind, one.name, one.version))


def _from_debian(sources: Mapping[str, Source]) -> Iterator[Component]:
    for name, source in sources.items():
        texts = (source.tree / "debian/copyright", *source.patches)  # the licence of Python asks so
        yield Component("deb", name, source.version, PINS["debian"][name]["licence"], texts)


def _from_zig(builder: Builder) -> Iterator[Component]:
    """The C library, and the runtimes of C++ and of the compiler."""
    (zig,) = builder.toolchain.tools.glob("lib/python3*/site-packages/ziglang")
    (version,) = re.findall(r"^ziglang==(\S+)", (HERE / "tools.lock").read_text(), re.M)
    musl, unwind = zig / "lib/libc/musl/COPYRIGHT", zig / "lib/libunwind/LICENSE.TXT"
    llvm = "Apache-2.0 WITH LLVM-exception"
    yield Component("generic", "musl", f"zig-{version}", "MIT", (musl,))
    yield Component("generic", "libcxx-libcxxabi-libunwind", f"zig-{version}", llvm, (unwind,))
    yield Component("generic", "compiler-rt", f"zig-{version}", "MIT", (zig / "LICENSE",))


def _from_wheels(packages: Path) -> Iterator[Component]:
    for directory in sorted(packages.glob("*.dist-info")):
        metadata = HeaderParser().parsestr((directory / "METADATA").read_text())
        licence = metadata["License-Expression"] or metadata["License"] or "unknown"
        texts = _licence_texts(directory)
        yield Component(
            "pypi", metadata["Name"].lower(), metadata["Version"], licence.split("\n")[0], texts
        )


def _from_npm() -> Iterator[Component]:
    """What scripts/web has copied into the package."""
    web = PACKAGE / "web"
    for name, version in json.loads((web / "package.json").read_text())["dependencies"].items():
        yield Component("npm", name, version, "Apache-2.0", _licence_texts(web / "swagger"))


def _from_crates(builder: Builder, sdist: Source) -> Iterator[Component]:
    """What is linked of the crates that a Rust extension depends on: no build tools, no tests."""
    if not (sdist.tree / "Cargo.lock").exists():
        return
    cargo = fetch_crates(builder, sdist)
    target = builder.toolchain.target.rust
    text = run(*cargo, "metadata", "--format-version=1", "--locked", "--offline", "--quiet",
               f"--filter-platform={target}", cwd=sdist.tree)  # fmt: skip
    metadata = json.loads(text[text.index("{") :])
    crates = {one["id"]: one for one in metadata["packages"]}
    nodes = {one["id"]: one for one in metadata["resolve"]["nodes"]}
    linked, pending = set(), [metadata["resolve"]["root"]]
    while pending:
        crate = pending.pop()
        if crate in linked or "proc-macro" in crates[crate]["targets"][0]["kind"]:
            continue
        linked.add(crate)
        pending += [
            one["pkg"]
            for one in nodes[crate]["deps"]
            if any(kind["kind"] is None for kind in one["dep_kinds"])
        ]
    for crate in linked - {metadata["resolve"]["root"]}:
        one = crates[crate]
        texts = _licence_texts(Path(one["manifest_path"]).parent)
        licence = one["license"] or "see its text"
        yield Component("cargo", one["name"], one["version"], licence, texts)


def _licence_texts(directory: Path) -> tuple[Path, ...]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return tuple(path for path in files if LICENCE_FILES.match(path.name))


def write(builder: Builder, program: Path, components: list[Component]) -> None:
    """Write the licences, the SBOM and SHA256SUMS beside a finished file."""
    licences = program.with_name(f"{program.name}.licenses.txt")
    licences.write_text("".join(_licence_section(one) for one in components))
    listed = program.with_name(f"{program.name}.components.json")
    rows = [{**asdict(one), "texts": None, "purl": one.purl} for one in components]
    listed.write_text(json.dumps(rows))
    sbom = program.with_name(f"{program.name}.cdx.json")
    python = builder.toolchain.tools / "bin/python"
    (version,) = re.findall(r'__version__ = "(.*)"', (PACKAGE / "__init__.py").read_text())
    digest = _sha256(program)
    run(python, HERE / "sbom.py", listed, sbom, program.name, version, digest, cwd=program.parent)
    listed.unlink()
    sums = [
        f"{_sha256(path)}  {path.name}\n" for path in sorted(program.parent.glob("sandbox-api-*"))
    ]
    (program.parent / "SHA256SUMS").write_text("".join(sums))


def _licence_section(component: Component) -> str:
    texts = [path.read_text(errors="replace").strip() for path in component.texts]
    title = f"{component.name} {component.version}: {component.licence}"
    body = "\n\n".join(dict.fromkeys(texts)) or "(the package has no text of its own)"
    return f"{'=' * 80}\n{title}\n{'=' * 80}\n\n{body}\n\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
