"""Composition: routes, their methods, and the life of the owners."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from sandbox_api.api.wire import FILE_THREADS
from sandbox_api.app import create_app
from sandbox_api.errors import InvalidError
from sandbox_api.settings import Settings

AppClient = Callable[..., Awaitable[TestClient]]


def test_a_workload_user_that_is_root_is_refused() -> None:
    """Before anything is opened."""
    with pytest.raises(InvalidError, match="unprivileged"):
        create_app(Settings(user="0"))


def test_no_route_answers_options_or_all_methods() -> None:
    """Preflights belong to the middleware, and what is not stated is a 404."""
    methods = {route.method for route in create_app(Settings()).router.routes()}
    assert methods <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}


async def test_owners_close_when_the_application_ends(app_client: AppClient) -> None:
    """No thread and no child watcher stays behind."""
    client = await app_client()
    threads = client.app[FILE_THREADS]
    assert await threads.run(lambda: 5) == 5
    await client.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await threads.run(lambda: 5)
