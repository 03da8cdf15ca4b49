"""The log: JSON lines that never hold the daemon up."""

import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from sandbox_api.log import MAX_LINE_BYTES, JsonHandler, LineWriter


@contextmanager
def logger_to(fd: int) -> Iterator[logging.Logger]:
    """A logger whose lines go to a descriptor, and are all there afterwards."""
    with closing(LineWriter(fd)) as writer:
        yield logger_of(writer)


def logger_of(writer: LineWriter) -> logging.Logger:
    log = logging.Logger("test", logging.DEBUG)  # noqa: LOG001 - not for anybody else
    log.addHandler(JsonHandler(writer))
    return log


def lines_of(write: Callable[[logging.Logger], None]) -> list[dict[str, object]]:
    """What is in the log after `write`."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe:
        with os.fdopen(write_end, "wb"), logger_to(write_end) as log:
            write(log)
        return [json.loads(line) for line in pipe.read().splitlines()]


def test_a_line_is_an_object_with_sorted_keys() -> None:
    """Level, text, time in whole seconds, and what `extra` says; lines in the order of calls."""

    def write(log: logging.Logger) -> None:
        log.warning("disk at %d %%", 95, extra={"path": "/tmp\udcff", "a": [1]})
        log.critical("end")

    first, second = lines_of(write)
    assert list(first) == ["a", "level", "msg", "path", "time"]
    assert (first["level"], first["msg"], first["a"]) == ("warning", "disk at 95 %", [1])
    assert time.strptime(str(first["time"]), "%Y-%m-%dT%H:%M:%SZ")
    assert second["level"] == "fatal"


def test_lines_before_the_start_need_no_thread() -> None:
    """They are written at once where there is room; what has none comes when there is a thread."""
    read_end, write_end = os.pipe()
    long = b"x" * (1 << 20) + b"\n"
    with (
        os.fdopen(read_end, "rb") as pipe,
        os.fdopen(write_end, "wb"),
        closing(LineWriter(write_end, threaded=False)) as writer,
    ):
        threads = threading.active_count()
        writer.write(b"one\n")
        assert pipe.readline() == b"one\n"
        writer.write(long)
        writer.write(b"three\n")
        assert threading.active_count() == threads
        writer.start()
        assert pipe.readline() == long
        assert pipe.readline() == b"three\n"


def test_an_end_before_the_start() -> None:
    """Nothing is lost that there is a reader for."""
    read_end, write_end = os.pipe()
    text = b"x" * 100_000 + b"\n"
    with os.fdopen(read_end, "rb") as pipe, ThreadPoolExecutor() as reader:
        with os.fdopen(write_end, "wb"):
            writer = LineWriter(write_end, threaded=False)
            writer.write(text)
            read = reader.submit(pipe.read)
            writer.close()
        assert read.result() == text


def test_a_traceback_is_a_field() -> None:
    """One line even for an exception."""

    def write(log: logging.Logger) -> None:
        try:
            1 / 0  # noqa: B018 - for its error
        except ZeroDivisionError:
            log.exception("failed")

    (line,) = lines_of(write)
    assert line["level"] == "error"
    assert "ZeroDivisionError: division by zero" in str(line["traceback"])


def test_a_line_is_bounded() -> None:
    """A command of megabytes does not become a line of megabytes."""
    (line,) = lines_of(lambda log: log.info("x", extra={"command": "y" * 1_000_000}))
    assert line["msg"] == "x"
    assert int(str(line["truncated_bytes"])) > MAX_LINE_BYTES


def test_what_json_does_not_know_is_shown() -> None:
    """A log call never fails for its arguments."""
    (line,) = lines_of(lambda log: log.info("x", extra={"what": {1, 2}}))
    assert line["what"] == "{1, 2}"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_stalls_holds_nobody_up(*, blocking: bool) -> None:
    """Calls return at once, memory is bounded, and what was dropped is counted."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, blocking)
    text = "x" * 1000
    with os.fdopen(read_end, "rb") as pipe, os.fdopen(write_end, "wb"):
        writer = LineWriter(write_end, max_buffer_bytes=100_000)
        log = logger_of(writer)
        started = time.monotonic()
        for _ in range(1000):
            log.info(text)
        assert time.monotonic() - started < 2
        writer.close(timeout_s=0.05)
        told: list[dict[str, Any]] = []
        while sum(line.get("dropped", 1) for line in told) < 1000:  # it may say so several times
            told.append(json.loads(pipe.readline()))
        reports = [line for line in told if "dropped" in line]
        assert sum(line.get("dropped", 1) for line in told) == 1000
        assert sum(line["dropped"] for line in reports) > 500
        assert {line["level"] for line in reports} == {"warning"}


def refuse_threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The next threads do not start, as where there are as many processes as may be."""
    start = threading.Thread.start
    left = iter(range(count))

    def start_or_refuse(thread: threading.Thread) -> None:
        if next(left, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_lines_wait_for_a_thread(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """Where none can be started, the next line tries again, then the end, which writes itself."""
    refuse_threads(monkeypatch, refused)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe:
        with os.fdopen(write_end, "wb"), closing(LineWriter(write_end)) as writer:
            writer.write(b"one\n")
            writer.write(b"two\n" * 2000)
        assert pipe.read() == b"one\n" + b"two\n" * 2000


@pytest.mark.parametrize("blocking", [True, False])
def test_the_end_waits_for_no_reader(monkeypatch: pytest.MonkeyPatch, *, blocking: bool) -> None:
    """Also where it has to write without a thread."""
    refuse_threads(monkeypatch, 2)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, blocking)
    line = b"x" * 999 + b"\n"
    with os.fdopen(read_end, "rb"), os.fdopen(write_end, "wb"):
        writer = LineWriter(write_end)
        writer.write(line * 1000)
        writer.close(timeout_s=0.05)
        assert len(os.read(read_end, len(line) * 1000)) >= select.PIPE_BUF


def test_an_end_without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is broken: nothing is written, and nothing fails."""
    refuse_threads(monkeypatch, 2)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb"):
        with closing(LineWriter(write_end)) as writer:
            writer.write(b"x\n")
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"x\n")
