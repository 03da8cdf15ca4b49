"""System calls of the built file: the table that ctypes reaches, and what the calls do."""

import ast
import re
from pathlib import Path

import pytest

from tests.e2e.checker import Check
from tests.e2e.roots import EMULATED, PROJECT, needs_binary, needs_root

pytestmark = [pytest.mark.slow, needs_binary]


def test_every_system_call_is_in_the_table(check: Check) -> None:
    """What core/linux.py calls by ctypes is in packaging/runtime/dl.c."""
    tree = ast.parse((PROJECT / "sandbox_api/core/linux.py").read_text())
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and is_library(node.value)
    }
    assert "prctl" in names
    script = "import ctypes, sys\nfor name in sys.argv[1:]: getattr(ctypes.CDLL(None), name)"
    check(script, *names)


def is_library(node: ast.expr) -> bool:
    """`library`, `libc`, or a call of a function such as `_quick_calls`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id.endswith("_calls")
    return isinstance(node, ast.Name) and node.id in {"library", "libc"}


SYSTEM_CALLS = """
import os, struct, sys, threading
from sandbox_api.core import linux

os.chdir(sys.argv[1])
MIB = 1 << 20
with open("holes", "w+b", 0) as file:
    linux.preallocate(file.fileno(), 0, MIB)
    file.write(b"x" * MIB)
    os.fsync(file.fileno())
    linux.punch_hole(file.fileno(), 0, MIB // 2)
    size, blocks = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_blocks
    print("holes", size == MIB, blocks < 2 * MIB // 512, file.seek(0) or file.read(1))
    data = linux.first_data(file.fileno())
    print("data", data == MIB // 2, linux.next_hole(file.fileno(), data))

linux.rename_exclusive("holes", "moved")
open("holes", "w").close()
try:
    linux.rename_exclusive("holes", "moved")
except FileExistsError as exc:
    print("rename", exc.filename)

fd = linux.open_inotify()
wd = linux.add_inotify_watch(fd, ".", linux.IN_CREATE)
open("new", "w").close()
told, mask, _, length = struct.unpack_from("iIII", event := os.read(fd, 4096))
print("inotify", told == wd, mask == linux.IN_CREATE, event[16 : 16 + length].rstrip(bytes(1)))
print("removed", linux.remove_inotify_watch(fd, wd), linux.remove_inotify_watch(fd, wd))
try:
    linux.add_inotify_watch(fd, "/nowhere", linux.IN_CREATE)
except FileNotFoundError as exc:
    print("errno", exc.strerror)

print("statfs", hex(linux.file_system_type("/proc")))

def as_somebody():
    linux.set_thread_identity(1000, 1001, [1002])
    try:
        open("secret")
    except PermissionError:
        print("fsuid", "refused")

open("secret", "w").close()
os.chmod("secret", 0o600)
thread = threading.Thread(target=as_somebody)
thread.start()
thread.join()
print("others", open("secret").read() == "", os.geteuid())
"""
ORPHANED = """
import os
from sandbox_api.core import linux

linux.become_subreaper()
read, write = os.pipe()
if (child := os.fork()) == 0:
    if os.fork() == 0:
        os.read(read, 1)  # outlives its parent
        os._exit(7)
    os._exit(0)
os.waitpid(child, 0)
os.write(write, b"x")
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
TOLD = """
holes True True b'\\x00'
data True 1048576
rename renameat2
inotify True True b'new'
removed True False
errno No such file or directory
statfs 0x9fa0
fsuid refused
others True 0
"""


@needs_root
def test_system_calls_do_what_they_should(check: Check, tmp_path: Path) -> None:
    """Numbers and structures are those of this architecture."""
    tmp_path.chmod(0o755)
    assert check(SYSTEM_CALLS, tmp_path) == TOLD.strip()


@pytest.mark.skipif(EMULATED, reason="qemu refuses PR_SET_CHILD_SUBREAPER")
def test_orphans_come_to_a_subreaper(check: Check) -> None:
    """What loses its parent is ours, not that of PID 1."""
    assert check(ORPHANED) == "7"


def test_the_table_of_system_calls_is_sorted() -> None:
    """It is searched by halves."""
    text = (PROJECT / "packaging/runtime/dl.c").read_text()
    names = re.findall(r"^    SYMBOL\((\w+)\)", text, re.MULTILINE)
    assert names == sorted(set(names))
    assert len(names) > 20


def test_other_libraries_are_refused(check: Check) -> None:
    """A clear error, not a crash."""
    script = "import ctypes\ntry: ctypes.CDLL('libm.so.6')\nexcept OSError as exc: print(exc)"
    assert "loads no libraries" in check(script)
