"""Starts the daemon, as `python -m sandbox_api` does; in a snapshot, it goes on from here."""

import _signal
import _thread
import atexit
import contextlib
import gc
import logging
import mimetypes
import os
import sys
import threading
import time

import _bundle

# Small programs of their own, which need little of the rest (`_program` in sandbox_api/__main__.py)
if sys.argv[0] == "output-holder":
    exec(_bundle.code("sandbox_api.core.processes.holding"), {"__name__": "__main__"})
if sys.argv[5:] == ["sandbox_api.core.searches.worker"]:
    from sandbox_api.core.searches.worker import main

    sys.exit(main())

gc.disable()  # what is imported stays
mimetypes.knownfiles.clear()  # aiohttp reads them at import; the daemon needs none
from sandbox_api.__main__ import main  # noqa: E402
from sandbox_api.image import prepare as prepare_image  # noqa: E402


def run():
    gc.enable()
    return main()


def finish():
    """What is left to do when the daemon has ended."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()


def preload():
    """Before the snapshot is taken: import all, tell what, and leave nothing to collect.

    What is written here comes before the memory: see packaging/snapshot.py.
    """
    prepare_image()
    sys.stdout.write("\n".join(sorted(sys.modules)) + "\0")
    sys.stdout.flush()
    sys.argv.clear()
    sys.orig_argv.clear()
    os.environ.clear()
    if threading.active_count() > 1 or _thread._count() > 0:
        sys.stderr.write(f"not fit for a snapshot: {threading.enumerate()}\n")
        return 1
    gc.collect()
    _bundle.make_immortal(gc.get_objects())
    gc.freeze()
    return 0


def resume(argv, environment, ignored):
    """In a process that begins with the snapshot: what belongs to the process, and not to the code.

    Args:
        argv: the command line, as bytes.
        environment: `NAME=value`, as bytes.
        ignored: numbers of the signals that the process was started to ignore.
    """
    _take_environment(environment)
    sys.argv[:] = sys.orig_argv[:] = map(os.fsdecode, argv)
    try:
        sys.executable = os.readlink("/proc/self/exe")
    except OSError:
        sys.executable = sys.argv[0] if sys.argv else "sandbox-api"
    time.tzset()
    logging._startTime = time.time()
    _open_standard_streams()
    _set_signals(ignored)


def _take_environment(environment):
    """The first of two variables of one name counts, as for getenv(3)."""
    values = {}
    for entry in environment:
        name, equals, value = entry.partition(b"=")
        if equals:
            values.setdefault(name, value)
    os.environ._data.clear()
    os.environ._data.update(values)


def _open_standard_streams():
    """As CPython opens them in UTF-8 mode: None where there is none."""
    for name, number, mode, errors in (
        ("stdin", 0, "r", "surrogateescape"),
        ("stdout", 1, "w", "surrogateescape"),
        ("stderr", 2, "w", "backslashreplace"),
    ):
        stream = _open_stream(number, mode, errors)
        if stream is not None and (name == "stderr" or stream.isatty()):
            stream.reconfigure(line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _open_stream(number, mode, errors):
    try:
        os.fstat(number)
    except OSError:
        return None
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)


def _set_signals(ignored):
    """What CPython sets when it starts; what we were started to ignore stays so, and only that."""
    ignored = {*ignored, _signal.SIGPIPE, _signal.SIGXFSZ}
    for number in range(1, _signal.NSIG):
        if number in ignored:
            _signal.signal(number, _signal.SIG_IGN)
        elif _signal.getsignal(number) == _signal.SIG_IGN:  # as it was where the file was built
            _signal.signal(number, _signal.SIG_DFL)
    if _signal.SIGINT not in ignored:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
