"""The daemon's log: one JSON object per line on stderr, keys in alphabetical order.

A pipe that nobody reads must not stop the daemon, and stderr is shared with the `-c` command, so it
cannot be made non-blocking. Hence one writer thread and a bounded buffer: what does not fit is
dropped and counted, and the count is a log line of its own once there is room again. A daemon that
starts has no threads (build.trim_memory): meanwhile lines go out at once, where there is room.
"""

import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

MAX_BUFFER_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 10
LINGER_S = 0.01  # a burst is one write: waking the thread for each line costs more than the line
CLOSE_TIMEOUT_S = 1.0

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_OWN_KEYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineWriter:
    """Writes whole lines to a descriptor from its own thread, which starts with the first line.

    Args:
        fd: the descriptor; it stays open.
        max_buffer_bytes: how much may wait; lines beyond it are dropped and counted.
        threaded: whether there may be a thread already; else not before `start`.
    """

    def __init__(
        self, fd: int, max_buffer_bytes: int = MAX_BUFFER_BYTES, *, threaded: bool = True
    ) -> None:
        self._fd = fd
        self._max_buffer_bytes = max_buffer_bytes
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._dropped = 0
        self._closed = False
        self._threaded = threaded
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Hand over one line; never waits for the descriptor."""
        with self._changed:
            if not self._threaded and not self._lines:
                line = _write_until(self._fd, line, time.monotonic())
            if self._size_bytes + len(line) > self._max_buffer_bytes:
                self._dropped += 1
            elif line:
                self._lines.append(line)
                self._size_bytes += len(line)
                self._wake()

    def start(self) -> None:
        """From now on there may be a thread."""
        with self._changed:
            self._threaded = True
            if self._lines:
                self._wake()

    def _wake(self) -> None:
        if self._thread is not None:
            if len(self._lines) == 1:
                self._changed.notify()
        elif self._threaded:
            self._start()

    def _start(self) -> None:
        # a daemon thread: a reader that never reads must not keep the process from ending
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        with suppress(RuntimeError):  # no more threads: lines wait, and the next one tries again
            thread.start()
            self._thread = thread

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what waits, for `timeout_s` seconds at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            if self._thread is None and self._lines:
                self._start()
        if self._thread is not None:
            self._thread.join(timeout_s)
        else:
            _write_until(self._fd, self._take(), time.monotonic() + timeout_s)

    def _run(self) -> None:
        while batch := self._take():
            _write_all(self._fd, batch)

    def _take(self) -> bytes:
        """All that waits, in one piece; empty when there is no more and never will be."""
        with self._changed:
            while not self._lines and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._changed.wait(LINGER_S)
            lines, self._lines, self._size_bytes = self._lines, [], 0
            dropped, self._dropped = self._dropped, 0
        if dropped:
            text = f"{dropped} log lines dropped: the reader of stderr is too slow"
            lines.append(json_line("warning", text, dropped=dropped))
        return b"".join(lines)


def _write_all(fd: int, data: bytes) -> None:
    """Write it all, waiting where the descriptor is full; give up where it is broken."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # the descriptor was made non-blocking by whoever gave it to us
            select.select([], [fd], [])
        except OSError:
            return


def _write_until(fd: int, data: bytes, end_s: float) -> bytes:
    """Write what goes without waiting for longer than to a time of `time.monotonic`.

    Returns:
        What is left.
    """
    view = memoryview(data)
    with suppress(OSError):
        while view and select.select([], [fd], [], max(0.0, end_s - time.monotonic()))[1]:
            view = view[os.write(fd, view[: select.PIPE_BUF]) :]  # so much fits (select(2))
    return bytes(view)


def json_line(level: str, message: str, **fields: object) -> bytes:
    """One log line of now.

    Args:
        level: debug, info, warning, error or fatal.
        message: the text.
        fields: more keys; values that JSON does not know are shown by their `repr`.
    """
    values = {**fields, "level": level, "msg": message, "time": timestamp(int(time.time()))}
    line = _encode(values)
    if len(line) >= MAX_LINE_BYTES:
        short = {
            "level": level,
            "msg": message[: MAX_LINE_BYTES // 8],
            "truncated_bytes": len(line),
        }
        line = json.dumps({**short, "time": values["time"]}, sort_keys=True).encode()
    return line + b"\n"


_ENCODER = json.JSONEncoder(sort_keys=True, default=repr, separators=(",", ":"))


def _encode(values: Mapping[str, object]) -> bytes:
    return _ENCODER.encode(values).encode()


@lru_cache(maxsize=4)
def timestamp(second: int) -> str:
    """RFC 3339 in UTC with whole seconds, for a time in seconds since the epoch."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


class JsonHandler(logging.Handler):
    """Formats records as JSON lines; what `extra` carries becomes keys.

    Args:
        writer: where lines go.
    """

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a traceback, where there is one, is the key `traceback`."""
        try:
            fields = {key: value for key, value in vars(record).items() if key not in _OWN_KEYS}
            if record.exc_info:
                fields["traceback"] = logging.Formatter().formatException(record.exc_info)
            level = _LEVELS.get(record.levelno, record.levelname.lower())
            self._writer.write(json_line(level, record.getMessage(), **fields))
        except Exception:  # noqa: BLE001 - a log call must never break its caller
            self.handleError(record)


def start_logging(fd: int | None = None) -> LineWriter:
    """Send all logging, warnings included, to `fd` (stderr by default) as JSON lines.

    Returns:
        The writer, to be started when there may be threads, and closed at the end of the process.
    """
    writer = LineWriter(sys.stderr.fileno() if fd is None else fd, threaded=False)
    logging.basicConfig(level=logging.DEBUG, handlers=[JsonHandler(writer)], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return writer
