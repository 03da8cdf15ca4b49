"""The program with the memory of a process that has imported everything: see docs/packaging.md."""

import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundle import ASSET, DUMP, Item, pack
from cache import BuildError
from elf import BUNDLE_ADDRESS, READ, WRITE, Segment, with_segments
from target import Target

# What of the build's machine would stay: its time zone, home and configuration of OpenSSL.
ENVIRONMENT = {"TZ": "UTC0", "HOME": "/", "OPENSSL_CONF": "/dev/null"}
_PIECE = struct.Struct("<QQ")


@dataclass(frozen=True)
class Snapshot:
    """What a process has in memory.

    Args:
        memory: all that can be written to, but for the stack.
        modules: what it has imported, and need not be in the bundle.
    """

    memory: list[Segment]
    modules: frozenset[str]

    def left(self, items: list[Item]) -> list[Item]:
        """What of a bundle is still needed: files, and modules that are not imported."""
        return [one for one in items if one[1] == ASSET or one[0] not in self.modules]


def take_snapshot(target: Target, linked: bytes, items: list[Item], work: Path) -> Snapshot:
    """Run the program under an emulator, until it has imported everything.

    The emulator is an old processor: what libraries find out about the one that they run on stays
    in their memory, and has to be true wherever the file will run.

    Args:
        target: what the program is for.
        linked: without a bundle.
        items: of the bundle.
        work: a directory for files that are needed meanwhile.

    Raises:
        BuildError: there is no emulator, or the process was not fit for a snapshot.
    """
    bundle = Segment(BUNDLE_ADDRESS, pack(items, DUMP), READ)
    program = work / "dumper"
    program.write_bytes(with_segments(linked, [bundle]))
    program.chmod(0o755)
    command = [*_emulator(target), "-0", "sandbox-api", str(program)]
    # without arguments, and in no directory of ours: whatever it knows is in its memory
    result = subprocess.run(command, env=ENVIRONMENT, cwd="/", capture_output=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr!r}")
    modules, _, memory = result.stdout.partition(b"\0")
    pieces = [Segment(*one, READ | WRITE) for one in _pieces(memory)]
    return Snapshot(pieces, frozenset(modules.decode().split()))


def _emulator(target: Target) -> tuple[str, ...]:
    for name in (f"qemu-{target.machine}-static", f"qemu-{target.machine}"):
        if (path := shutil.which(name)) is not None:
            return (path, "-cpu", target.oldest_cpu)
    raise BuildError(
        f"a snapshot needs qemu-{target.machine}: install qemu-user-static"
        " (packaging/prerequisites), or build with --no-snapshot"
    )


def _pieces(dumped: bytes) -> Iterator[tuple[int, bytes]]:
    """Address and bytes of each piece, as runtime/snapshot.c writes them."""
    at = 0
    while at < len(dumped):
        address, size = _PIECE.unpack_from(dumped, at)
        at += _PIECE.size
        yield address, dumped[at : at + size]
        at += size
