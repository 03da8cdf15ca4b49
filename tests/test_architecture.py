"""The rules of docs/architecture.md that a linter cannot see: arrows, sizes, no hidden state."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sandbox_api"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
# A table of cases is read from top to bottom: cutting it in two helps nobody to find one.
MAX_TEST_FILE_LINES = 500
MAX_TEST_LINES = 60

# Who may import whom: only what stands further up, or beside it in the same room.
LAYERS = (
    {"sandbox_api", "build", "errors"},
    {"core"},
    {"settings", "log", "flags"},
    {"api"},
    {"app"},
    {"__main__", "image"},
)
MUTATORS = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop"} | {
    "popitem",
    "popleft",
    "remove",
    "setdefault",
    "update",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
CHECKED = [*SOURCES.values(), *sorted((ROOT / "tests").rglob("*.py"))]


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported, at the top or inside of a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module


def own_imports(name: str) -> set[str]:
    return {target for target in imports(TREES[name]) if target in SOURCES}


def room(name: str) -> str:
    """`core` of `sandbox_api.core.processes.run`."""
    return name.split(".")[1] if "." in name else name


def rank(name: str) -> int:
    found = [index for index, rooms in enumerate(LAYERS) if room(name) in rooms]
    assert found, f"{name} is in no layer: say in LAYERS where it belongs"
    return found[0]


def test_arrows_point_one_way() -> None:
    """`__main__ -> app -> api -> core`; what is below never knows what is above."""
    wrong = [
        f"{name} imports {target}"
        for name in SOURCES
        for target in own_imports(name)
        if rank(target) > rank(name) or (rank(target) == rank(name) and room(target) != room(name))
    ]
    assert wrong == []


def test_no_import_cycles() -> None:
    """Modules can be read one after the other."""
    pending = {name: own_imports(name) - {name} for name in SOURCES}
    while ready := [name for name, targets in pending.items() if not targets & pending.keys()]:
        for name in ready:
            del pending[name]
    assert pending == {}


def test_handler_modules_do_not_know_each_other() -> None:
    """What two handler modules share belongs to api/wire.py or to the core."""
    handlers = {name for name, tree in TREES.items() if "ROUTES" in assigned_names(tree)}
    wrong = {
        name: others
        for name in handlers
        if room(name) == "api" and (others := own_imports(name) & handlers - {name})
    }
    assert wrong == {}


def test_core_knows_no_http() -> None:
    """The core can be used and tested without a server."""
    wrong = [
        f"{name} imports {target}"
        for name in SOURCES
        if room(name) == "core"
        for target in imports(TREES[name])
        if target.split(".")[0] == "aiohttp"
    ]
    assert wrong == []


def test_api_knows_no_operating_system() -> None:
    """Handlers start no program and send no signal: the core does."""
    wrong = [
        f"{name} imports {target}"
        for name in SOURCES
        if room(name) == "api"
        for target in imports(TREES[name])
        if target.split(".")[0] in {"subprocess", "signal", "shutil", "psutil", "ctypes", "pwd"}
    ]
    assert wrong == []


def test_only_settings_reads_the_environment() -> None:
    """Whoever looks for a setting looks in one file."""
    wrong = [
        f"{name}:{node.lineno} {node.attr}"
        for name, tree in TREES.items()
        if name != "sandbox_api.settings"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    assert wrong == []


def assigned_names(tree: ast.Module) -> set[str]:
    """The names that a module binds to values."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def changed_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The plain names whose value some statement changes in place, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from ((name, node.lineno) for name in node.names)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            if isinstance(node.value, ast.Name):
                yield node.value.id, node.lineno
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.attr in MUTATORS
        ):
            yield node.func.value.id, node.lineno


def test_no_module_level_state() -> None:
    """State belongs to the objects that app.py makes: two daemons fit into one test process."""
    wrong = [
        f"{name}:{line} changes {changed}"
        for name, tree in TREES.items()
        for changed, line in changed_names(tree)
        if changed in assigned_names(tree)
    ]
    assert wrong == []


def test_files_and_functions_are_short() -> None:
    """A file that outgrows a screenful of functions becomes a package."""
    wrong = []
    for path in CHECKED:
        text = path.read_text()
        in_tests = (ROOT / "tests") in path.parents
        if (lines := len(text.splitlines())) > (
            MAX_TEST_FILE_LINES if in_tests else MAX_FILE_LINES
        ):
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > (MAX_TEST_LINES if in_tests else MAX_FUNCTION_LINES):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {size}")
    assert wrong == []


SIDE_EFFECTS = """
import aiohttp.web, importlib, json, logging, os, pydantic, signal, sys

def descriptors():
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))

def state():
    os.umask(mask := os.umask(0))
    return {
        "descriptors": descriptors(),
        "threads": os.listdir("/proc/self/task"),
        "directory": os.getcwd(),
        "files": sorted(os.listdir()),
        "environment": dict(os.environ),
        "umask": mask,
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "log handlers": str(logging.root.handlers),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


def test_imports_have_no_side_effects(tmp_path: Path) -> None:
    """Importing opens, starts and sets nothing: it could happen at build time."""
    result = subprocess.run(
        [sys.executable, "-c", SIDE_EFFECTS, *SOURCES],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {}
