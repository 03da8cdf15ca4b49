"""Composition: which owners there are, what they get from the settings, and all routes.

Owners are opened in the order of `create_app` when the application starts, and closed in reverse
order when it stops.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from sandbox_api.api import docs, files, network, processes, system, wire
from sandbox_api.api.access import Access
from sandbox_api.api.middleware import add_common_headers, add_server_timing, make_middleware
from sandbox_api.core.environment import Environment
from sandbox_api.core.files import Files
from sandbox_api.core.identity import FileThreads, Identity, resolve_identity
from sandbox_api.core.keepalive import ScaleFile
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.processes import Directories, Limits, Processes
from sandbox_api.core.processes.budget import KEEP_RUNNING_BYTES, budget_bytes
from sandbox_api.core.startup import StartupCommand
from sandbox_api.core.state import open_state, open_subdirectory, state_candidates
from sandbox_api.settings import Settings

DAY_S = 24 * 3600.0


def create_app(settings: Settings) -> web.Application:
    """The whole daemon as an application; nothing happens before it is started.

    Args:
        settings: all there is to set.

    Raises:
        InvalidError: the workload user does not exist or is root.
    """
    identity = resolve_identity(settings.user) if settings.user else None
    environment = Environment(settings.launch_environment, settings.extra_environment)
    access = Access(settings.token, settings.allowed_hosts, settings.allowed_origins)

    app = web.Application(
        middlewares=[make_middleware(access)], client_max_size=settings.max_json_bytes
    )
    app[wire.SETTINGS] = settings
    app[wire.SHUTDOWN] = wire.Shutdown()
    app[system.STARTED] = system.Started()
    app.on_response_prepare.append(add_common_headers)
    if settings.processing_time:
        app.on_response_prepare.append(add_server_timing)
    app.on_shutdown.append(_end_streams)

    home = settings.home if identity is None else identity.home
    paths = PathResolver(settings.workdir or "/", home)
    _add_files(app, settings, identity, paths)
    if settings.command:
        _add_startup_command(app, settings, environment, identity)
    _add_processes(app, settings, environment, identity, paths)
    for module in (system, processes, files, docs, network):
        app.add_routes(module.ROUTES)
    return app


async def _end_streams(app: web.Application) -> None:
    app[wire.SHUTDOWN].begin()


def _add_files(
    app: web.Application, settings: Settings, identity: Identity | None, paths: PathResolver
) -> None:
    async def threads(app: web.Application) -> AsyncIterator[None]:
        app[wire.FILE_THREADS] = owner = FileThreads(identity)
        app[wire.FILES] = Files(
            owner, paths, fsync=settings.fsync, max_content_bytes=settings.max_content_bytes
        )
        yield
        app[wire.FILE_THREADS].close()

    app.cleanup_ctx.append(threads)


def _add_processes(
    app: web.Application,
    settings: Settings,
    environment: Environment,
    identity: Identity | None,
    paths: PathResolver,
) -> None:
    candidates = state_candidates(
        settings.state_dir,
        environment.get("XDG_STATE_HOME"),
        settings.home,
        environment.get("TMPDIR"),
    )

    async def engine(app: web.Application) -> AsyncIterator[None]:
        scale = ScaleFile(settings.scale_file, counting=not settings.keep_alive_disabled)
        with (
            open_state(candidates, settings.port) as state,
            open_subdirectory(state, "runs", settings.log_dir) as runs,
            open_subdirectory(state, "records", settings.records_dir) as records,
        ):
            directories = Directories(runs, records) if runs and records else None
            async with Processes.open(
                environment, identity, paths, directories, _limits(settings), scale
            ) as owner:
                app[wire.PROCESSES] = owner
                yield

    app.cleanup_ctx.append(engine)


def _limits(settings: Settings) -> Limits:
    return Limits(
        stop_grace_s=settings.stop_grace_s,
        max_records=settings.max_records,
        max_record_age_s=settings.max_record_days * DAY_S,
        max_log_bytes=budget_bytes(settings.max_log_bytes_total, settings.max_log_percent),
        keep_running_bytes=settings.max_log_file_bytes or KEEP_RUNNING_BYTES,
    )


def _add_startup_command(
    app: web.Application, settings: Settings, environment: Environment, identity: Identity | None
) -> None:
    async def command(_: web.Application) -> AsyncIterator[None]:
        running = StartupCommand.start(settings.command, environment, identity)
        yield
        running.close()

    app.cleanup_ctx.append(command)
