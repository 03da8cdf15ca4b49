"""Composition: which owners there are, what they get from the settings, and all routes.

Owners are opened in the order of `create_app` when the application starts, and closed in reverse
order when it stops.
"""

import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from aiohttp import web

from sandbox_api.api import (
    archives,
    codegen,
    copies,
    docs,
    files,
    mcp,
    network,
    processes,
    proxy,
    search,
    system,
    terminal,
    trees,
    uploads,
    watch,
    wire,
)
from sandbox_api.api.access import Access
from sandbox_api.api.callbacks import Callbacks
from sandbox_api.api.middleware import add_common_headers, add_server_timing, make_middleware
from sandbox_api.api.processes.log_lines import log_line
from sandbox_api.api.providers import choose_provider
from sandbox_api.api.upstream import Apps
from sandbox_api.core.archives import Archives
from sandbox_api.core.codegen.codegen import Codegen
from sandbox_api.core.copies import Copies
from sandbox_api.core.edits import Edits
from sandbox_api.core.environment import Environment
from sandbox_api.core.files import Files
from sandbox_api.core.identity import FileThreads, Identity, resolve_identity
from sandbox_api.core.keepalive import ScaleFile
from sandbox_api.core.monitors import Monitors
from sandbox_api.core.paths import PathResolver
from sandbox_api.core.portwatch import PortWatch
from sandbox_api.core.processes import Directories, Limits, Processes
from sandbox_api.core.processes.budget import KEEP_RUNNING_BYTES, budget_bytes
from sandbox_api.core.processes.host import open_host
from sandbox_api.core.searches.searches import SEARCH_THREADS, Searches
from sandbox_api.core.startup import StartupCommand
from sandbox_api.core.state import open_state, open_subdirectory, state_candidates
from sandbox_api.core.terminals import Terminals
from sandbox_api.core.trees import Trees
from sandbox_api.core.uploads import Resuming, Uploads
from sandbox_api.core.watch import Watches
from sandbox_api.settings import Settings

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
HANDLERS = (
    *(system, processes, docs, network, proxy),
    *(files, trees, copies, archives, uploads, search, watch, codegen, mcp),
)
STATE: web.AppKey[Path | None] = web.AppKey("state")


def _resources(routes: Iterable[web.AbstractRouteDef]) -> tuple[web.AbstractResource, ...]:
    """Routes as aiohttp looks them up: made once, since it compiles an expression for each."""
    router = web.UrlDispatcher()
    router.add_routes(routes)
    return tuple(router.resources())


RESOURCES = _resources(chain.from_iterable(module.ROUTES for module in HANDLERS))
TERMINAL_RESOURCES = _resources(terminal.ROUTES)


@dataclass(frozen=True, slots=True)
class Workload:
    """What commands and file operations run with.

    Attributes:
        identity: who they are; None for the daemon itself.
        environment: what commands inherit.
        paths: what a client's paths mean.
    """

    identity: Identity | None
    environment: Environment
    paths: PathResolver

    @classmethod
    def of(cls, settings: Settings) -> "Workload":
        """The one that the settings name.

        Raises:
            InvalidError: its user does not exist or is root.
        """
        identity = resolve_identity(settings.user) if settings.user else None
        environment = Environment(settings.launch_environment, settings.extra_environment)
        home = settings.home if identity is None else identity.home
        return cls(identity, environment, PathResolver(settings.workdir or "/", home))


def create_app(settings: Settings) -> web.Application:
    """The whole daemon as an application; nothing happens before it is started.

    Args:
        settings: all there is to set.

    Raises:
        InvalidError: the workload user does not exist or is root.
    """
    workload = Workload.of(settings)
    access = Access(settings.token, settings.allowed_hosts, settings.allowed_origins)

    app = web.Application(
        middlewares=[make_middleware(access)], client_max_size=settings.max_json_bytes
    )
    app[wire.SETTINGS] = settings
    app[wire.ACCESS] = access
    app[wire.SHUTDOWN] = wire.Shutdown()
    app[system.STARTED] = system.Started()
    app.on_response_prepare.append(add_common_headers)
    if settings.processing_time:
        app.on_response_prepare.append(add_server_timing)
    app.on_shutdown.append(_end_streams)

    _add_files(app, settings, workload)
    _add_watches(app, workload)
    _add_host(app, settings)
    _add_searches(app, settings, workload)
    if settings.command:
        _add_startup_command(app, settings, workload)
    _add_state(app, settings, workload)
    _add_processes(app, settings, workload)
    app.cleanup_ctx.append(_ports)
    _add_uploads(app, settings, workload)
    _add_mcp(app)
    _add_resources(app, RESOURCES)
    if settings.max_terminals:
        _add_terminals(app, settings, workload)
    return app


def _add_resources(app: web.Application, resources: Iterable[web.AbstractResource]) -> None:
    for resource in resources:
        app.router.register_resource(resource)


async def _end_streams(app: web.Application) -> None:
    app[wire.SHUTDOWN].begin()


def _add_files(app: web.Application, settings: Settings, workload: Workload) -> None:
    async def threads(app: web.Application) -> AsyncIterator[None]:
        app[wire.FILE_THREADS] = owner = FileThreads(workload.identity)
        app[wire.FILES] = files = Files(
            owner,
            workload.paths,
            fsync=settings.fsync,
            max_content_bytes=settings.max_content_bytes,
        )
        app[wire.EDITS] = Edits(owner, fsync=settings.fsync)
        app[wire.TREES] = Trees(
            owner, files, fsync=settings.fsync, max_bytes=settings.max_tree_bytes
        )
        app[wire.COPIES] = Copies(owner, workload.paths, fsync=settings.fsync)
        app[wire.ARCHIVES] = Archives(owner, fsync=settings.fsync)
        yield
        app[wire.FILE_THREADS].close()

    app.cleanup_ctx.append(threads)


def _add_watches(app: web.Application, workload: Workload) -> None:
    async def watches(app: web.Application) -> AsyncIterator[None]:
        threads = FileThreads(workload.identity)
        app[wire.WATCHES] = owner = Watches(threads)
        async with owner.open():
            yield
        threads.close()

    async def stop(app: web.Application) -> None:
        if (owner := app.get(wire.WATCHES)) is not None:  # it was opened
            owner.stop()

    app.cleanup_ctx.append(watches)
    app.on_shutdown.append(stop)


def _add_host(app: web.Application, settings: Settings) -> None:
    name = str(settings.port or f"pid-{os.getpid()}")
    tell = log_line if settings.log_processes else None

    async def host(app: web.Application) -> AsyncIterator[None]:
        scale = ScaleFile(settings.scale_file, counting=not settings.keep_alive_disabled)
        with open_host(name, scale, tell) as app[wire.HOST]:
            yield

    app.cleanup_ctx.append(host)


def _add_searches(app: web.Application, settings: Settings, workload: Workload) -> None:
    async def searches(app: web.Application) -> AsyncIterator[None]:
        threads = FileThreads(workload.identity, SEARCH_THREADS)
        reaper = app[wire.HOST].reaper
        app[wire.SEARCHES] = Searches(threads, reaper, timeout_s=settings.search_timeout_s)
        provider = choose_provider(
            settings.relace_api_key,
            settings.relace_base_url,
            settings.morph_api_key,
            settings.morph_base_url,
        )
        app[wire.CODEGEN] = Codegen(provider, app[wire.EDITS], app[wire.SEARCHES])
        yield
        threads.close()

    app.cleanup_ctx.append(searches)


def _add_state(app: web.Application, settings: Settings, workload: Workload) -> None:
    candidates = state_candidates(
        settings.state_dir,
        workload.environment.get("XDG_STATE_HOME"),
        settings.home,
        workload.environment.get("TMPDIR"),
    )

    async def state(app: web.Application) -> AsyncIterator[None]:
        with open_state(candidates, settings.port) as app[STATE]:
            yield

    app.cleanup_ctx.append(state)


def _add_uploads(app: web.Application, settings: Settings, workload: Workload) -> None:
    async def sessions(app: web.Application) -> AsyncIterator[None]:
        threads = app[wire.FILE_THREADS]
        own_threads = threads if threads.identity is None else FileThreads(None)
        max_age_s = settings.upload_expiry_hours * HOUR_S
        with open_subdirectory(app[STATE], "uploads") as directory:
            app[wire.UPLOADS] = Uploads(
                threads,
                own_threads,
                directory,
                tmpdir=workload.environment.get("TMPDIR") or "/tmp",  # noqa: S108 - random names, O_EXCL
                fsync=settings.fsync,
                max_age_s=max_age_s,
            )
            app[wire.RESUMING] = Resuming(
                threads, own_threads, directory, fsync=settings.fsync, max_age_s=max_age_s
            )
            async with app[wire.UPLOADS].open(), app[wire.RESUMING].open():
                yield
        if own_threads is not threads:
            own_threads.close()

    app.cleanup_ctx.append(sessions)


def _add_processes(app: web.Application, settings: Settings, workload: Workload) -> None:
    async def engine(app: web.Application) -> AsyncIterator[None]:
        with (
            open_subdirectory(app[STATE], "runs", settings.log_dir) as runs,
            open_subdirectory(app[STATE], "records", settings.records_dir) as records,
        ):
            exclusive = not (settings.log_dir or settings.records_dir)
            directories = Directories(runs, records, exclusive) if runs and records else None
            async with Processes.open(
                workload.environment,
                workload.identity,
                workload.paths,
                directories,
                _limits(settings),
                app[wire.HOST],
            ) as owner:
                app[wire.PROCESSES] = owner
                yield

    app.cleanup_ctx.append(engine)


def _add_mcp(app: web.Application) -> None:
    async def endpoint(app: web.Application) -> AsyncIterator[None]:
        app[mcp.ENDPOINT] = owner = mcp.Endpoint(app)
        yield
        owner.close()

    app.cleanup_ctx.append(endpoint)


def _add_terminals(app: web.Application, settings: Settings, workload: Workload) -> None:
    async def terminals(app: web.Application) -> AsyncIterator[None]:
        owner = Terminals(
            workload.environment,
            app[wire.FILE_THREADS],
            workload.paths,
            app[wire.HOST].reaper,
            settings.max_terminals,
        )
        async with owner.open():
            app[wire.TERMINALS] = owner
            yield

    app.cleanup_ctx.append(terminals)
    _add_resources(app, TERMINAL_RESOURCES)


def _limits(settings: Settings) -> Limits:
    return Limits(
        stop_grace_s=settings.stop_grace_s,
        max_records=settings.max_records,
        max_record_age_s=settings.max_record_days * DAY_S,
        max_log_bytes=budget_bytes(settings.max_log_bytes_total, settings.max_log_percent),
        keep_running_bytes=settings.max_log_file_bytes or KEEP_RUNNING_BYTES,
    )


async def _ports(app: web.Application) -> AsyncIterator[None]:
    threads, processes, callbacks = app[wire.FILE_THREADS], app[wire.PROCESSES], Callbacks()
    app[wire.APPS] = Apps()
    app[wire.PORT_WATCH] = watch = PortWatch(threads, processes)
    app[wire.MONITORS] = monitors = Monitors(watch, processes, threads, callbacks.deliver)
    async with callbacks.open(), monitors.open():
        yield
    watch.close()
    app[wire.APPS].close()


def _add_startup_command(app: web.Application, settings: Settings, workload: Workload) -> None:
    async def command(app: web.Application) -> AsyncIterator[None]:
        running = StartupCommand.start(
            settings.command, workload.environment, workload.identity, app[wire.HOST]
        )
        yield
        running.close()

    app.cleanup_ctx.append(command)
