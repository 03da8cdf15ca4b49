"""What tests of searches over HTTP share."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from tests.core.searches.conftest import make

AppClient = Callable[..., Awaitable[TestClient]]
Search = Callable[..., Awaitable[SimpleNamespace]]

FILES = {
    "src/main.py": "import os\nprint('needle one')\n",
    "src/util/helpers.py": "def helper():\n    return 'Needle two'\n",
    "src/util/conf.json": '{"k": 1}\n',
    "docs/readme.md": "# Title\nneedle three\n",
    ".hidden/secret.txt": "needle hidden\n",
    "node_modules/pkg/index.js": "needle module\n",
    "top.txt": "top\n",
}


@pytest.fixture
async def work(tmp_path: Path) -> Path:
    """The daemon's working directory."""
    return tmp_path / "work"


@pytest.fixture
async def tree(work: Path, app_client: AppClient) -> Path:
    """The working directory with some files in it."""
    del app_client  # it makes the directory
    return make(work, FILES)


@pytest.fixture
async def search(app_client: AppClient) -> Search:
    """`await search("find", "src", patterns="*.py")`: status and JSON; a Path is absolute."""
    client = await app_client()

    async def send(kind: str, path: str | Path = "", **query: str) -> SimpleNamespace:
        target = quote(str(path), safe="/" if isinstance(path, str) else "")
        route = {"find": "find", "fuzzy": "search", "content": "content-search"}[kind]
        url = URL(f"/filesystem-{route}/{target}", encoded=True).with_query(query)
        async with client.get(url) as reply:
            return SimpleNamespace(status=reply.status, json=await reply.json())

    return send
