"""The process: flags, log, port, then the application until a signal ends it."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from sandbox_api import __version__, build
from sandbox_api.api.mcp.stdio import serve_stdio
from sandbox_api.api.server import Runner
from sandbox_api.api.wire import HOST, PROCESSES, SETTINGS
from sandbox_api.app import create_app
from sandbox_api.core import linux
from sandbox_api.core.processes import holding
from sandbox_api.core.searches import worker
from sandbox_api.core.surroundings import missing_parts
from sandbox_api.errors import FailedError, SandboxError, os_reason
from sandbox_api.flags import USAGE, Flags, UsageError, parse_flags
from sandbox_api.log import LineWriter, start_logging
from sandbox_api.settings import Settings, parse_settings, read_token, take_environment

log = logging.getLogger("sandbox_api")

EXIT_FAILED = 1
EXIT_USAGE = 2
BACKLOG = 1024
END_ALL_S = 4.0
OOM_SCORE = b"-500"
_PYTHON_IGNORES = frozenset({signal.SIGPIPE, signal.SIGXFSZ})  # and subprocess restores them
_INHERITED = tuple(frozenset(signal.Signals) - _PYTHON_IGNORES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT.

    Args:
        arguments: the command line without the program's name; None for the process's own.

    Returns:
        The exit status: 0 after a signal, 1 where the daemon could not start, 2 for a bad flag.
    """
    if arguments is None:
        if (program := _program()) is not None:
            return program()
        arguments = sys.argv[1:]
    try:
        flags = parse_flags(arguments)
    except UsageError as exc:
        sys.stderr.write(f"{exc}\n{USAGE}")
        return EXIT_USAGE
    if flags.help or flags.version:
        sys.stdout.write(USAGE if flags.help else f"{version()}\n")
        return 0
    with closing(start_logging()) as lines:
        return _run(flags, lines)


def _program() -> Callable[[], int] | None:
    """Which of our other programs this is; only the built file asks, which is no interpreter that
    could be told to run them."""
    if sys.argv[0] == holding.NAME:
        return holding.main
    return worker.main if sys.argv[1:] == worker.worker_command()[1:] else None


def version() -> str:
    """One line for `--version`: what this is, and what it was built from."""
    return f"sandbox-api {__version__} (commit {build.COMMIT}, built {build.TIME})"


def _run(flags: Flags, lines: LineWriter) -> int:
    """Everything that can fail fails before the first side effect: settings, user, port."""
    for text in missing_parts():
        log.warning("%s", text)
    if flags.ignored:
        log.warning("arguments after the flags are ignored", extra={"arguments": flags.ignored})
    try:
        settings = _read_settings(flags)
        runner = Runner(
            create_app(settings), access_lines=lines.write if settings.log_requests else None
        )
        if flags.mcp:
            _prepare_process()
            lines.start()
            asyncio.run(_serve_stdio(runner))
            return 0
        with bind(settings.port) as listener:
            gc.freeze()  # what was imported stays: the collector need not look at it again
            _prepare_process()
            asyncio.run(_serve(runner, listener, lines))
    except SandboxError as exc:
        log.critical("%s", exc.message)
        return EXIT_FAILED
    return 0


def _read_settings(flags: Flags) -> Settings:
    environment = take_environment()
    port = 0 if flags.mcp else flags.port
    token = None if flags.token_file is None else read_token(flags.token_file)
    return parse_settings(
        environment, port=port, command=flags.command, user=flags.user, token=token
    )


def bind(port: int) -> socket.socket:
    """A listening socket on all interfaces, IPv6 and IPv4, or IPv4 alone where there is no other.

    Args:
        port: 0 for one that the kernel picks.

    Raises:
        FailedError: the port is in use, or not ours to take.
    """
    try:
        return _listen(port)
    except OSError as exc:
        reason = os_reason(OSError(exc.errno, os.strerror(exc.errno or 0)))  # Python's says more
        raise FailedError(f"Failed to start server: listen tcp :{port}: bind: {reason}") from None


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
        except OSError as exc:
            if exc.errno != errno.EADDRNOTAVAIL:  # IPv6 is compiled in and switched off
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def _prepare_process() -> None:
    """What holds for the whole process, as far as the kernel allows it.

    Orphans of our children become our children, so that none is a zombie for long; when memory runs
    out, others go first (children have 500, spawn.py).
    """
    _heed_ignored_signals()
    with suppress(OSError):
        linux.become_subreaper()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(OOM_SCORE)


def _heed_ignored_signals() -> None:
    """Take each signal that we were started to ignore, and do nothing.

    A program inherits what is ignored, not what is handled (execve(2)). A shell ignores the keys'
    signals in what it runs in the background, as an entrypoint runs us; in a terminal of ours they
    must work.
    """
    for number in _INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: object) -> None:
    del number, frame


async def _serve_stdio(runner: Runner) -> None:
    told_to_stop = _stop_by_signal()
    try:
        await runner.setup()
        runner.app[HOST].reaper.reap_orphans()
        await serve_stdio(runner.app, told_to_stop)
        if os.getpid() == 1:  # as below
            await runner.app[PROCESSES].end_all(END_ALL_S)
    finally:
        await runner.cleanup()


def _stop_by_signal() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    return told_to_stop


async def _serve(runner: Runner, listener: socket.socket, lines: LineWriter) -> None:
    told_to_stop = _stop_by_signal()
    try:
        await runner.setup()
        runner.app[HOST].reaper.reap_orphans()
        site = await runner.serve(listener, BACKLOG)
        port = listener.getsockname()[1]
        log.info("listening on port %d", port, extra={"port": port, "version": __version__})
        log.debug("settings", extra={"settings": runner.app[SETTINGS].masked()})
        build.trim_memory()
        lines.start()  # and not before: while a thread runs, little can be given back
        await told_to_stop.wait()
        log.info("told to stop")
        if os.getpid() == 1:  # the kernel ends all others with us: give them time to end well
            await site.stop()
            await runner.app[PROCESSES].end_all(END_ALL_S)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
