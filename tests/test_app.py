"""Composition: routes, their methods, and the life of the owners."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
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


def is_for_apps(resource: web.AbstractResource) -> bool:
    """Whether the route passes everything on to an app."""
    return resource.canonical.startswith("/port/")


def test_no_route_answers_options_or_all_methods() -> None:
    """Preflights belong to the middleware, and what is not stated is a 404."""
    routes = create_app(Settings()).router.routes()
    ours = (route for route in routes if route.resource and not is_for_apps(route.resource))
    methods = {route.method for route in ours}
    assert methods <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}


async def test_owners_close_when_the_application_ends(app_client: AppClient) -> None:
    """No thread and no child watcher stays behind."""
    client = await app_client()
    threads = client.app[FILE_THREADS]
    assert await threads.run(lambda: 5) == 5
    await client.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await threads.run(lambda: 5)
