"""What the holder does (see `holder`): a program of its own, that imports nothing of ours.

So it costs 3 MB, not a copy of the daemon: it is run by a bare interpreter, from this file, or in a
fork of the daemon where there is no file.
"""

import os
import select
import socket
import sys
import time

NAME = "output-holder"
HOLDS_STILL, NOT_NEEDED = b"s", b"n"
STREAMS = ("stdout", "stderr")
RETRY_S = 1.0
CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 256


def main(control: socket.socket, listener: socket.socket, runs_fd: int) -> None:
    """Hold pipes while the daemon lives; then outlive it, and them.

    Args:
        control: what the daemon says; its end is the daemon's.
        listener: where the next daemon asks.
        runs_fd: the directory of all runs.
    """
    set_name()
    held = follow(control)
    control.close()
    outlive(held, listener, runs_fd)


def set_name() -> None:
    """What ps(1) and pgrep(1) show."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(NAME)
    except OSError:
        pass


def follow(control: socket.socket) -> dict[tuple[str, str], int]:
    """Do as the daemon says until it has died.

    A message is a run's name, the streams and their pipes; without pipes they are let go.

    Returns:
        The pipes that it held then.
    """
    held: dict[tuple[str, str], int] = {}
    while True:
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, len(STREAMS))
        if not message:
            return held
        run, *streams = message.decode().split()
        for stream, fd in zip(streams, fds, strict=False):
            held[run, stream] = fd
        for stream in () if streams else STREAMS:
            if (run, stream) in held:
                os.close(held.pop((run, stream)))


def outlive(held: dict[tuple[str, str], int], listener: socket.socket, runs_fd: int) -> None:
    """Wait for the last writer of each pipe, or for the next daemon."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    left = {fd: key for key, fd in held.items()}
    for fd in left:
        poll.register(fd, 0)  # that it has no writer any more is told all the same
    while left:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                if not stand_still(listener):
                    return
                continue
            save_rest(*left.pop(fd), fd, runs_fd)
            poll.unregister(fd)
            os.close(fd)


def stand_still(listener: socket.socket) -> bool:
    """Let the next daemon take over.

    Returns:
        Whether it has died over that, and all is as before.
    """
    connection, _ = listener.accept()
    with connection:
        try:
            connection.send(HOLDS_STILL)
            return connection.recv(1) != NOT_NEEDED
        except OSError:
            return True


def save_rest(run: str, stream: str, pipe_fd: int, runs_fd: int) -> None:
    """Write what a pipe without writers holds to a file beside its log. The file's name says
    where in the log that belongs."""
    rest_fd = -1
    while data := os.read(pipe_fd, CHUNK_BYTES):
        if rest_fd < 0:
            rest_fd = open_rest(run, stream, runs_fd)
        while data and rest_fd >= 0:
            try:
                data = data[os.write(rest_fd, data) :]
            except OSError:  # the disk is full
                time.sleep(RETRY_S)
    if rest_fd >= 0:
        os.close(rest_fd)


def open_rest(run: str, stream: str, runs_fd: int) -> int:
    """The file for it; -1 where the run has been removed."""
    try:
        size = os.stat(f"{run}/{stream}.log", dir_fd=runs_fd).st_size
    except OSError:
        size = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            return os.open(f"{run}/{stream}.rest-{size}", flags, 0o600, dir_fd=runs_fd)
        except (FileNotFoundError, NotADirectoryError):
            return -1
        except OSError:  # no more files
            time.sleep(RETRY_S)


if __name__ == "__main__":
    control_fd, listener_fd, directory_fd = map(int, sys.argv[1:])
    main(socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd), directory_fd)
