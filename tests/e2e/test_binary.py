"""The built file: what it is made of, and what works in it as in any Python.

What no request can show is looked at with the checker: the same program, which runs a script.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.checker import Check, run
from tests.e2e.https import https_server
from tests.e2e.roots import (
    BINARY,
    CHECKER,
    DEADLINE_S,
    EMULATE,
    EMULATED,
    IS_PLAIN,
    LAUNCH,
    PROJECT,
    make_scratch,
    needs_binary,
    needs_root,
)

pytestmark = [pytest.mark.slow, needs_binary, pytest.mark.timeout(300)]

PACKAGE = PROJECT / "sandbox_api"
MAX_MB = 45 if IS_PLAIN else 65
MAX_COMPRESSED_MB = 16 if IS_PLAIN else 20


def test_it_is_static() -> None:
    """No loader and no library: nothing of an image is needed."""
    headers = run("readelf", "--program-headers", "--dynamic", "--wide", BINARY)
    assert "INTERP" not in headers
    assert "NEEDED" not in headers
    ldd = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=False)
    assert re.search("not a dynamic executable|statically linked", ldd.stdout + ldd.stderr)


def test_it_names_no_path_of_the_build() -> None:
    """Where it was built is nobody's business, and would make two builds differ."""
    content = BINARY.read_bytes()
    paths = (str(PROJECT), "sandbox-api-build", ".cargo/", "site-packages/ziglang")
    assert [path for path in paths if path.encode() in content] == []


def test_its_size(tmp_path: Path) -> None:
    """It is copied into every image."""
    assert BINARY.stat().st_size < MAX_MB * 1e6
    packed = tmp_path / "packed.gz"
    with packed.open("wb") as file:
        subprocess.run(["gzip", "-9", "-c", BINARY], stdout=file, check=True)
    assert packed.stat().st_size < MAX_COMPRESSED_MB * 1e6


def imported_names(directory: Path) -> Iterator[str]:
    """Every module that code imports anywhere, also within functions, and names in modules."""
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as exc:
        print(name, type(exc).__name__)
"""


@pytest.mark.parametrize("package", ["sandbox_api", "aiohttp", "pydantic", "yarl", "multidict"])
def test_whatever_is_imported_is_there(check: Check, package: str) -> None:
    """What the source can import, at the top or when it is first used, the file can too."""
    directory = PACKAGE if package == "sandbox_api" else Path(find(package)).parent
    names = sorted(set(imported_names(directory)))
    here = run(sys.executable, "-W", "ignore", "-c", IMPORT_ALL, *names)
    missing = set(check(IMPORT_ALL, *names).splitlines()) - set(here.splitlines())
    assert {line for line in missing if not OF_NO_USE.match(line)} == set()


@needs_root
def test_an_empty_root_has_all_that_is_imported(tmp_path: Path) -> None:
    """Now or when it is first used, by a user without rights: nothing is looked for on disk."""
    shutil.copy(CHECKER, tmp_path / "checker")
    (tmp_path / "script.py").write_text(IMPORT_ALL)
    tmp_path.chmod(0o555)
    names = sorted(set(imported_names(PACKAGE)))
    told = run("chroot", "--userspec=1000:1000", tmp_path, "/checker", "/script.py", *names)
    tmp_path.chmod(0o755)
    assert told == ""


# Programs and tools for tests, and modules of the standard library that packaging leaves out.
OF_NO_USE = re.compile(
    r"(unittest|doctest|pdb|mypy|pytest|distutils|rich|hypothesis)\b"
    r"|.*\.(mypy|_hypothesis_plugin|pytest_plugin|test_utils)\b"
)


def find(package: str) -> str:
    """The file of a package of this environment."""
    return run(sys.executable, "-c", f"import {package}; print({package}.__file__)").strip()


def standard_names(tree: ast.Module) -> Iterator[str]:
    """`os.listxattr`: what a module uses of the modules of the standard library."""
    imported = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] in sys.stdlib_module_names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = imported.get(node.value.id)
            if module:
                yield f"{module}.{node.attr}"


HAS_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, attribute = name.rpartition(".")
    if not hasattr(importlib.import_module(module), attribute):
        print(name)
"""


def test_the_standard_library_is_whole(check: Check) -> None:
    """CPython leaves functions out where it does not know a C library: os.listxattr, with musl."""
    names = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in standard_names(ast.parse(path.read_text()))
    }
    assert "os.listxattr" in names
    here = run(sys.executable, "-c", HAS_ALL, *names)
    assert check(HAS_ALL, *names) == here.strip()


def test_errors_have_the_texts_of_this_machine(check: Check) -> None:
    """glibc's: clients see them, and the file says what a `pip install` says."""
    script = "import errno, os; print([os.strerror(one) for one in sorted(errno.errorcode)])"
    assert check(script) == run(sys.executable, "-c", script).strip()


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.ISO-8859-1", "xx_YY.UTF-8"])
def test_text_is_utf_8(check: Check, locale: str) -> None:
    """Whatever the locale says, as names of files and output are."""
    script = """
import os, sys
print("☃", sys.getfilesystemencoding(), ascii(os.fsdecode(bytes([255]))))
"""
    assert check(script, LC_ALL=locale) == "☃ utf-8 '\\udcff'"


@pytest.mark.parametrize(
    ("zone", "hour"), [("Asia/Tokyo", "9"), ("UTC", "0"), ("EST5EDT,M3.2.0,M11.1.0", "19")]
)
def test_time_zones(check: Check, zone: str, hour: str) -> None:
    """TZ names a zone of the image's zoneinfo; zoneinfo finds the same files."""
    if zone == "Asia/Tokyo" and not Path("/usr/share/zoneinfo/Asia/Tokyo").exists():
        pytest.skip("no zoneinfo on this machine")
    assert check("import time; print(time.localtime(0).tm_hour)", TZ=zone) == hour
    if zone == "Asia/Tokyo":
        script = "import zoneinfo; print(zoneinfo.ZoneInfo('Asia/Tokyo').key)"
        assert check(script) == "Asia/Tokyo"


def test_deep_recursion_in_a_thread_is_an_error(check: Check) -> None:
    """musl's own thread stacks are too small for what the C parts of Python need."""
    script = """
import json, threading
def parse():
    try: json.loads("[" * 100_000)
    except RecursionError: print("too deep")
thread = threading.Thread(target=parse); thread.start(); thread.join()
"""
    assert check(script) == "too deep"


def test_nothing_on_disk_is_imported(check: Check, tmp_path: Path) -> None:
    """Neither from the directory nor from PYTHONPATH, and PYTHON* variables change nothing."""
    (tmp_path / "planted.py").write_text("print('planted')")
    script = """
import sys
print(sys.path, sys.flags.isolated)
try: import planted
except ImportError: print("no")
"""
    told = check(script, PYTHONPATH=str(tmp_path), PYTHONHOME="/", PYTHONSTARTUP="x")
    assert told.splitlines() == ["[] 1", "no"]


RESOLVE = """
import socket
print(socket.getaddrinfo("localhost", 80)[0][4][0] in ("127.0.0.1", "::1"))
"""


def test_names_are_resolved(check: Check) -> None:
    """From /etc/hosts."""
    assert check(RESOLVE) == "True"


FETCH = """
import asyncio, sys
from aiohttp.client import ClientSession
from aiohttp.client_exceptions import ClientError
async def main():
    try:
        async with ClientSession() as session:
            async with session.get(f"https://localhost:{sys.argv[1]}/") as answer:
                print(answer.status, await answer.text())
    except ClientError as exc:
        print(type(exc).__name__)
asyncio.run(main())
"""
TRUST = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
]


@needs_root
@pytest.mark.parametrize("place", [*TRUST, "variable", "nowhere"])
def test_cas_of_the_root_are_trusted(authority: Path, tmp_path: Path, place: str) -> None:
    """Wherever distributions keep them; and a server that no CA knows is refused."""
    make_scratch(tmp_path)
    shutil.copy(CHECKER, tmp_path / "checker")
    (tmp_path / "script.py").write_text(FETCH)
    variables = {}
    if place != "nowhere":
        path = tmp_path / ("my.pem" if place == "variable" else place)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(authority / "ca.pem", path)
    if place == "variable":
        variables = {"SSL_CERT_FILE": "/my.pem"}
    with https_server(authority) as port:
        told = run("chroot", tmp_path, "/checker", "/script.py", port, **variables).strip()
    assert told == ("ClientConnectorCertificateError" if place == "nowhere" else "200 trusted")


@pytest.mark.timeout(900)
def test_two_hundred_starts_and_stops(tmp_path: Path) -> None:
    """Each is up, answers, and ends with 0."""
    for _ in range(5 if EMULATED else 200):
        process = subprocess.Popen(
            [*EMULATE, BINARY, "-p", "0"],
            stderr=subprocess.PIPE,
            env={**LAUNCH, "SANDBOX_STATE_DIR": str(tmp_path)},
        )
        assert process.stderr is not None
        for line in process.stderr:
            if b"listening on port" in line:
                break
        process.terminate()
        process.stderr.read()
        assert process.wait(DEADLINE_S) == 0
        process.stderr.close()
    assert os.listdir(tmp_path)
