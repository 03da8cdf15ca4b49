"""What the holder does (see `holder`): a program of its own, that imports nothing of ours.

So it costs 3 MB, not a copy of the daemon: it is run by a bare interpreter, from this file. The
one-file build runs this module before it imports anything else.
"""

import fcntl
import os
import select
import socket
import struct
import sys
import time

NAME = "output-holder"
HOLDS_STILL, NOT_NEEDED = b"s", b"n"
STREAMS = ("stdout", "stderr")
STDIN = "stdin"
EXIT = "exit-"
RETRY_S = 1.0
PATIENCE_S = 5.0
CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 256
MOST_FDS = 8
PIDFD_INFO_EXIT = 1 << 3
PIDFD_INFO_BYTES = 64
PIDFD_GET_INFO = 3 << 30 | PIDFD_INFO_BYTES << 16 | 0xFF << 8 | 11


def hold(control: socket.socket, listener: socket.socket, runs_fd: int) -> None:
    """Hold pipes while the daemon lives; then outlive it, and them.

    Args:
        control: what the daemon says; its end is the daemon's.
        listener: where the next daemon asks.
        runs_fd: the directory of all runs.
    """
    set_name()
    left = follow(control)
    control.close()
    outlive(left, listener, runs_fd)


def set_name() -> None:
    """What ps(1) and pgrep(1) show."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(NAME)
    except OSError:
        pass


def follow(control: socket.socket) -> dict[int, tuple[str, str]]:
    """Do as the daemon says until it has died.

    A message is a run's name, names of what is held of it, and that: its pipes, and a pidfd of its
    child. What has a minus before its name is let go; without any name, all of the run is.

    Returns:
        What it held then: run and name of each descriptor.
    """
    held: dict[str, dict[str, int]] = {}
    while True:
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, MOST_FDS)
        if not message:
            return {fd: (run, name) for run, ends in held.items() for name, fd in ends.items()}
        run, *names = message.decode().split()
        if not fds:
            release(held, run, names[0][1:] if names else "")
        for name, fd in zip(names, fds, strict=False):
            if name.startswith(EXIT):  # of a run that was begun again
                release(held, run, EXIT)
            held.setdefault(run, {})[name] = fd


def release(held: dict[str, dict[str, int]], run: str, prefix: str) -> None:
    """Let go of what begins so."""
    for name in [name for name in held.get(run, {}) if name.startswith(prefix)]:
        os.close(held[run].pop(name))
    if not held.get(run):
        held.pop(run, None)


def outlive(left: dict[int, tuple[str, str]], listener: socket.socket, runs_fd: int) -> None:
    """Wait for the last writer of each pipe and the end of each child, or for the next daemon."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    for fd, (_, name) in left.items():
        # that a pipe has no other end any more, and that a child was reaped, is told all the same
        poll.register(fd, select.POLLIN if name.startswith(EXIT) else 0)
    patience: dict[int, float] = {}
    while left:
        for fd, events in poll.poll(RETRY_S * 1000 if patience else None):
            if fd == listener.fileno():
                if not stand_still(listener):
                    return
            elif events & (select.POLLHUP | select.POLLERR):
                save(*left.pop(fd), fd, runs_fd)
                patience.pop(fd, None)
                poll.unregister(fd)
                os.close(fd)
            else:  # it has ended, and its parent has yet to ask how
                poll.modify(fd, 0)
                patience[fd] = time.monotonic() + PATIENCE_S
        for fd in [fd for fd, until in patience.items() if time.monotonic() > until]:
            del patience[fd], left[fd]  # nobody asks, or this kernel does not tell


def save(run: str, name: str, fd: int, runs_fd: int) -> None:
    """Save what a pipe without writers holds, or how a child ended."""
    if name in STREAMS:
        save_rest(run, name, fd, runs_fd)
    elif name.startswith(EXIT) and (status := exit_status(fd)) is not None:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file_fd = os.open(f"{run}/{name}", flags, 0o600, dir_fd=runs_fd)
            os.write(file_fd, b"%d" % status)
            os.close(file_fd)
        except OSError:  # nobody will know
            pass


def exit_status(pidfd: int) -> int | None:
    """The wait status of a process that has been reaped by whoever was its parent.

    PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15 (include/uapi/linux/pidfd.h).

    Args:
        pidfd: opened while the process lived.

    Returns:
        None where the kernel cannot tell, or not yet.
    """
    info = bytearray(PIDFD_INFO_BYTES)
    struct.pack_into("=Q", info, 0, PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:
        return None
    (mask,) = struct.unpack_from("=Q", info, 0)
    (status,) = struct.unpack_from("=i", info, PIDFD_INFO_BYTES - 4)
    return int(status) if mask & PIDFD_INFO_EXIT else None


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


def main() -> int:
    """The program; its arguments are the descriptors that `hold` is about, in that order."""
    control_fd, listener_fd, runs_fd = map(int, sys.argv[1:])
    hold(socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd), runs_fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
