"""Builds the daemon as one file: see README.md here. Run by scripts/build."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import paperwork
from bundle import RUN, SCRIPT, Item, make_bundle, pack
from cache import FETCH_FAILED, BuildError, Cache, FetchError, say
from elf import BUNDLE_ADDRESS, READ, Segment, with_segments
from extensions import Builder, make_ctypes, make_extensions, make_native
from interpreter import Interpreter, make_interpreter
from libraries import make_libraries
from link import check, link
from snapshot import take_snapshot
from sources import Source, fetch_debian, fetch_python_packages
from target import CARGO_HOME, ROOT, TARGETS, check_programs, make_toolchain

CACHE = Path(os.environ.get("SANDBOX_BUILD_CACHE") or Path.home() / ".cache/sandbox-api-build")
NATIVE = next((arch for arch, target in TARGETS.items() if target.is_native), "amd64")
PYTHON = "python3.11"
ALLOCATOR = "wasi-libc"


def main() -> int:
    """Parse the command line and build; 75 where a source could not be fetched."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=sorted(TARGETS), default=NATIVE)
    parser.add_argument(
        "--no-snapshot", action="store_true", help="a file that imports everything when it starts"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    os.environ["PATH"] += f":{CARGO_HOME / 'bin'}"  # where rustup installs itself
    try:
        cache = Cache(CACHE.resolve())
        program = build(cache, arguments.arch, is_snapshot=not arguments.no_snapshot)
    except FetchError as exc:
        say(f"could not fetch: {exc}")
        return FETCH_FAILED
    except BuildError as exc:
        say(f"failed: {exc}")
        return 1
    size_mb = program.stat().st_size / 1e6
    say(f"{program.relative_to(ROOT)}: {size_mb:.1f} MB, {time.monotonic() - started:.0f} s")
    return 0


def build(cache: Cache, arch: str, *, is_snapshot: bool) -> Path:
    """Build for one architecture; returns the file in dist/."""
    check_programs(TARGETS[arch])
    sources = fetch_debian(cache)
    toolchain = make_toolchain(cache, TARGETS[arch])
    libraries = make_libraries(cache, toolchain, sources)
    native = _native_interpreter(cache, sources)
    interpreter = native
    if arch != NATIVE:
        interpreter = make_interpreter(cache, toolchain, sources[PYTHON], libraries, native)
    packages = fetch_python_packages(cache, toolchain.tools, interpreter.version)
    builder = Builder(cache, toolchain, interpreter)
    extensions, sdists = make_extensions(builder, packages)
    extensions += [make_ctypes(builder, libraries["libffi"]), make_native(builder)]

    work = ROOT / "build" / arch
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    items = make_bundle(cache, native, packages, facts(), work)
    linked = link(builder, libraries, sources[ALLOCATOR], extensions, work).read_bytes()
    programs = [_write(work / "plain", linked, items, [])]
    if is_snapshot:
        snapshot = take_snapshot(toolchain.target, linked, items, work)
        left = snapshot.left(items)
        programs.append(_write(work / "snapshot", linked, left, snapshot.memory))
    for program in programs:
        check(toolchain, program, cache.root, ROOT, CARGO_HOME)
    published = _publish(programs[-1], arch)
    paperwork.write(builder, published, paperwork.collect(builder, sources, packages, sdists))
    cache.prune()
    return published


def _write(path: Path, linked: bytes, items: list[Item], memory: list[Segment]) -> Path:
    """The daemon, and beside it the same program for the tests, which runs a script."""
    for purpose, target in ((RUN, path), (SCRIPT, path.with_name(f"{path.name}-checker"))):
        bundle = Segment(BUNDLE_ADDRESS, pack(items, purpose), READ)
        target.write_bytes(with_segments(linked, [*memory, bundle]))
        target.chmod(0o755)
    return path


def _native_interpreter(cache: Cache, sources: dict[str, Source]) -> Interpreter:
    toolchain = make_toolchain(cache, TARGETS[NATIVE])
    libraries = make_libraries(cache, toolchain, sources)
    return make_interpreter(cache, toolchain, sources[PYTHON], libraries, None)


def facts() -> str:
    """The text that takes the place of sandbox_api/build.py."""
    commit = os.environ.get("SANDBOX_BUILD_COMMIT") or _commit()
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return f"from _bundle import trim_memory\nCOMMIT = {commit!r}\nTIME = {built!r}\n"


def _commit() -> str:
    """The commit that is checked out, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _publish(program: Path, arch: str) -> Path:
    """A rename, so that a file that runs can be replaced."""
    target = ROOT / "dist" / f"sandbox-api-linux-{arch}"
    target.parent.mkdir(exist_ok=True)
    shutil.copy2(program, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)
    return target


if __name__ == "__main__":
    sys.exit(main())
