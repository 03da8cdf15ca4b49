"""Segments that are put into a linked program, which then runs with them."""

import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from elf import BUNDLE_ADDRESS, HEAP_ADDRESS, READ, WRITE, Segment, with_segments

SOURCE = r"""
#include <stdio.h>
#include <string.h>
__asm__(".section .note.one,\"a\",@note\n.balign 4\n.long 4,0,1\n.asciz \"one\"\n"
        ".section .note.two,\"a\",@note\n.balign 8\n.long 4,0,1\n.asciz \"two\"\n.text\n");
static char variable[20000] = "as linked"; /* more than a page of it */
static char zeros[50000];
int main(int argc, char **argv)
{
    if (argc > 1) {
        FILE *maps = fopen("/proc/self/maps", "r");
        for (char line[512]; fgets(line, sizeof line, maps);)
            fputs(line, stdout);
        return 0;
    }
    zeros[49999]++;
    printf("%s, %s, %d", variable, (char *)BUNDLE, zeros[49999]);
    strcpy((char *)HEAP, "written");
    return strcmp((char *)HEAP + 60000, "heap") != 0;
}
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small static program with two notes."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is needed to link a program")
    directory = tmp_path_factory.mktemp("linked")
    addresses = [f"-DBUNDLE={BUNDLE_ADDRESS:#x}", f"-DHEAP={HEAP_ADDRESS:#x}"]
    command = [compiler, "-static", "-no-pie", "-w", *addresses, "-x", "c", "-", "-o", "program"]
    subprocess.run(command, input=SOURCE.encode(), cwd=directory, check=True)
    return (directory / "program").read_bytes()


def run(program: bytes, directory: Path, *arguments: str) -> str:
    """What a program writes."""
    path = directory / "program"
    path.write_bytes(program)
    path.chmod(0o755)
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def heap() -> Segment:
    """Some pages with a text in the last."""
    return Segment(HEAP_ADDRESS, bytes(60000) + b"heap\0" + bytes(5000), READ | WRITE)


def writable(program: bytes) -> Iterable[tuple[int, int]]:
    """Address and size of what the program can write to."""
    (table,) = struct.unpack_from("<Q", program, 0x20)
    (count,) = struct.unpack_from("<H", program, 0x38)
    for number in range(count):
        kind, flags, _, address, _, _, size, _ = struct.unpack_from(
            "<IIQQQQQQ", program, table + number * 56
        )
        if kind == 1 and flags & WRITE:
            yield address, size


def test_segments_are_where_they_should_be(linked: bytes, tmp_path: Path) -> None:
    """The program finds what was put in; its own variables are as they were linked."""
    bundle = Segment(BUNDLE_ADDRESS, b"bundle\0", READ)
    program = with_segments(linked, [heap(), bundle])
    assert run(program, tmp_path) == "as linked, bundle, 1"
    maps = [line.split()[:2] for line in run(program, tmp_path, "maps").splitlines()]
    assert [f"{BUNDLE_ADDRESS:x}-{BUNDLE_ADDRESS + 4096:x}", "r--p"] in maps


def test_variables_are_replaced(linked: bytes, tmp_path: Path) -> None:
    """A writable segment gets the bytes of another process, and the old ones are dropped."""
    ((address, size),) = writable(linked)
    dumped = initial(linked, address, size).replace(b"as linked", b"as dumped")
    bundle = Segment(BUNDLE_ADDRESS, b"bundle\0", READ)
    program = with_segments(linked, [heap(), bundle, Segment(address, dumped, READ | WRITE)])
    assert run(program, tmp_path) == "as dumped, bundle, 1"
    assert b"as linked" not in program


def initial(program: bytes, address: int, size: int) -> bytes:
    """What lies in a writable segment when the program starts."""
    (table,) = struct.unpack_from("<Q", program, 0x20)
    (count,) = struct.unpack_from("<H", program, 0x38)
    for number in range(count):
        kind, _, offset, at, _, in_file, _, _ = struct.unpack_from(
            "<IIQQQQQQ", program, table + number * 56
        )
        if kind == 1 and at == address:
            return program[offset : offset + in_file].ljust(size, b"\0")
    raise AssertionError("no such segment")


def test_more_segments_than_notes(linked: bytes) -> None:
    """The link has to leave room."""
    segments = [Segment(BUNDLE_ADDRESS + number * 4096, b"x", READ) for number in range(9)]
    with pytest.raises(ValueError, match="no note left"):
        with_segments(linked, segments)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01\x01" + bytes(100)])
def test_other_files_are_refused(content: bytes) -> None:
    """Only what has 64 bits, little end first, is one of ours."""
    with pytest.raises(ValueError, match="not a 64-bit"):
        with_segments(content, [])
