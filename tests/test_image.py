"""What the build imports before it takes the image of the process."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sandbox_api
from sandbox_api.image import LATER

LEFT_OUT = {"aiohttp.client", "aiohttp.connector", "aiohttp.cookiejar"}  # see image.py
BY_NAME = {"encodings.ascii", "encodings.idna"}  # nothing imports them: codecs are looked up


def imported_in_functions() -> Iterator[tuple[str, str]]:
    """Module and name of each import that waits until a function is called."""
    for path in Path(sandbox_api.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        yield from ((alias.name, "") for alias in node.names)
                    elif isinstance(node, ast.ImportFrom):
                        yield from ((node.module or "", alias.name) for alias in node.names)


def test_what_is_imported_later_is_in_the_image() -> None:
    """Or is left out on purpose: else each daemon imports it anew, and has memory of its own."""
    used, missing = set(BY_NAME), []
    for module, name in imported_in_functions():
        known = {module, f"{module}.{name}"} & {*LATER, *LEFT_OUT}
        used |= known
        if not known:
            missing.append((module, name))
    assert missing == []
    assert used == {*LATER, *LEFT_OUT}
