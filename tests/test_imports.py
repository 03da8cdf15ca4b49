"""Importing does nothing. The built file is an image of a process that has imported everything, so
what an import did or remembered would be that of the build machine, for every daemon.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

IMPORT_ALL = """
import importlib, pkgutil
import sandbox_api
for module in pkgutil.walk_packages(sandbox_api.__path__, "sandbox_api."):
    importlib.import_module(module.name)
"""

# The same, and what the build does before it takes the image.
PREPARE = IMPORT_ALL + "import sandbox_api.image; sandbox_api.image.prepare()"

# What an import could change, as far as the kernel and the interpreter tell.
SURROUNDINGS = """
import json, os, signal, sys, threading

def status(*names):
    with open("/proc/self/status") as file:
        return [line for line in file if line.startswith(names)]

def files(top):
    found = ((path, name) for path, *both in os.walk(top) for names in both for name in names)
    return sorted("/".join(one) for one in found)

def descriptors():
    links = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            links[fd] = os.readlink("/proc/self/fd/" + fd)
        except FileNotFoundError:  # of this look
            pass
    return links

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read()

def surroundings():
    return {
        "descriptors": descriptors(),
        "threads": os.listdir("/proc/self/task"),
        "children": children(),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "files": files(os.environ["PLACE"]),
        "signals, umask": status("SigBlk", "SigIgn", "SigCgt", "Umask", "Uid", "Gid"),
        "handlers": {str(n): repr(signal.getsignal(n)) for n in signal.valid_signals()},
        "limits": open("/proc/self/limits").read(),
        "streams": [repr(s) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "hooks": [repr(h) for h in (sys.excepthook, threading.excepthook, sys.unraisablehook)],
    }

before = surroundings()
"""
COMPARE = """
after = surroundings()
print(json.dumps({what: [was, after[what]] for what, was in before.items() if was != after[what]}))
"""

# What must not be there after an import: it belongs to one process, or to one machine.
ALIVE = """
import asyncio, gc, json, logging, random, socket, ssl, threading
from concurrent.futures import Executor
from aiohttp.http import WebSocketWriter

kinds = (
    *(asyncio.AbstractEventLoop, asyncio.Future, socket.socket, ssl.SSLContext, threading.Thread),
    *(Executor, logging.StreamHandler, random.Random),
)
known = (
    *(threading.main_thread(), logging.lastResort),
    random._inst,  # seeded anew in each process
    *WebSocketWriter.__init__.__kwdefaults__.values(),  # masks what clients send
)
found = [one for one in gc.get_objects() if isinstance(one, kinds)]
found = [one for one in found if not any(one is other for other in known)]
print(json.dumps([repr(one) for one in found if not isinstance(one, random.SystemRandom)]))
"""

# All plain values of our modules. What is made from the surroundings differs between two of them.
VALUES = """
import json, os, sys
from pathlib import PurePath
PLAIN = (str, bytes, int, float, type(None), PurePath)

def plain(value):
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, map(plain, value)))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return sorted(repr((plain(key), plain(item))) for key, item in value.items())
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return [plain(getattr(value, name)) for name in value.__dataclass_fields__]
    return repr(value) if isinstance(value, PLAIN) else type(value).__name__

def cached(value):
    return value.cache_info().currsize if hasattr(value, "cache_info") else None

print(json.dumps({
    f"{name}.{key}": [plain(value), cached(value)]
    for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "sandbox_api"
    for key, value in vars(module).items() if not key.startswith("__")
}))
"""


# What looks like the time of now in any module, libraries included.
TIMES = """
import json, sys, time
now = time.time()
year = time.strftime(" %b %Y ", time.gmtime(now))

def is_of_now(value):
    if isinstance(value, (int, float)):
        return abs(value - now) < 86400
    return isinstance(value, str) and year in value

print(json.dumps([
    f"{name}.{key}" for name, module in sorted(sys.modules.items()) if name != "__main__"
    for key, value in vars(module).items() if is_of_now(value)
]))
"""

OTHER_SURROUNDINGS = {
    "LANG": "C.UTF-8",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONHASHSEED": "1",
    "SANDBOX_API_TOKEN": "t",
    "SANDBOX_STATE_DIR": "/x",
    "SHELL": "/bin/other",
    "TZ": "Asia/Tokyo",
    "USER": "else",
    "WORKDIR": "/z",
    "XDG_STATE_HOME": "/y",
}


BOTH = pytest.mark.parametrize("script", [IMPORT_ALL, PREPARE], ids=["imports", "image"])


def run_script(place: Path, script: str, **environment: str) -> Any:  # noqa: ANN401 - JSON
    """What a script prints in a new interpreter, in a directory of its own."""
    for name in ("home", "tmp", "work"):
        (place / name).mkdir(parents=True)
    own = {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "PLACE": str(place),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place / "work",
        env={**own, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@BOTH
def test_an_import_changes_nothing(tmp_path: Path, script: str) -> None:
    """Neither in the process nor on the disk."""
    assert run_script(tmp_path, SURROUNDINGS + script + COMPARE) == {}


@BOTH
def test_an_import_makes_nothing_that_lives(tmp_path: Path, script: str) -> None:
    """No loop, thread, socket or TLS context; aiohttp's client has two, and is not imported."""
    assert run_script(tmp_path, script + ALIVE) == []


@BOTH
def test_an_import_remembers_nothing(tmp_path: Path, script: str) -> None:
    """Two processes in different surroundings have the same constants, and empty caches."""
    first = run_script(tmp_path / "one", script + VALUES)
    second = run_script(
        tmp_path / "two",
        "import os; os.umask(0o77); os.setpgid(0, 0)\n" + script + VALUES,
        **OTHER_SURROUNDINGS,
    )
    assert len(first) > 1000
    assert [name for name, value in first.items() if second[name] != value] == []
    assert [name for name, (_, size) in first.items() if size] == []


@BOTH
def test_an_import_remembers_no_time(tmp_path: Path, script: str) -> None:
    """But for one, which the built file sets anew (packaging/runtime/start.py)."""
    assert run_script(tmp_path, script + TIMES) == ["logging._startTime"]
