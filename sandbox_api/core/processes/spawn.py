"""Starting a child: the one place where programs are spawned.

A command runs as `[SHELL, *SHELL_ARGS, command]` in a session of its own, with descriptors 0, 1, 2
and nothing else (G17). Every descriptor of ours is close-on-exec, and subprocess closes the rest.
"""

import fcntl
import os
import shutil
import stat
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox_api.core.identity import Identity
from sandbox_api.core.processes.process import ProcessSpec
from sandbox_api.core.processes.tree import read_children
from sandbox_api.errors import FailedError, InvalidError, UnavailableError, os_reason

OOM_SCORE = b"500"
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Launch:
    """What a child needs.

    Attributes:
        shell: program name or path; a bare name is looked up on the daemon's PATH.
        shell_args: its arguments before the command.
        command: the command line, handed over whole; None for a shell that reads its stdin.
        directory: absolute working directory, or empty for the daemon's own.
        environment: the child's whole environment.
        identity: who it runs as, or None for the daemon's user.
        terminal: whether its stdin becomes the terminal of its session.
    """

    shell: str
    shell_args: Sequence[str]
    command: str | None
    directory: str
    environment: Mapping[str, str]
    identity: Identity | None
    terminal: bool = False


def check_spec(spec: ProcessSpec) -> None:
    """Refuse what exec(3) cannot take.

    Raises:
        InvalidError: the name or a variable's name is not possible.
        FailedError: a NUL byte in what is handed to the kernel.
    """
    if len(spec.name.encode()) > MAX_NAME_BYTES or "\0" in spec.name:
        raise InvalidError(
            f"invalid process name: at most {MAX_NAME_BYTES} bytes and no NUL byte are possible"
        )
    if "\0" in spec.command:
        raise FailedError("failed to start process: invalid argument (NUL byte in command)")
    for key, value in spec.env.items():
        if not key or "=" in key:
            raise InvalidError(f"invalid env name '{key}': it must not be empty or contain '='")
        if "\0" in key or "\0" in value:
            raise FailedError("failed to start process: environment variable contains NUL")


def check_directory(command: str, directory: str) -> None:
    """Refuse a working directory that cannot be one. Blocks, and judges by the rights of the
    calling thread: a child changes to its directory before it becomes the workload user.

    Raises:
        FailedError: with the text of spec/process.md 2.
    """
    start = "failed to start process: could not"
    try:
        mode = os.stat(directory).st_mode
        if stat.S_ISDIR(mode):
            os.stat(f"{directory}/.")  # needs the right to enter it, as chdir(2) does
    except (FileNotFoundError, NotADirectoryError):
        raise FailedError(
            f"{start} execute command '{command}' because folder '{directory}' does not exist"
        ) from None
    except (OSError, ValueError) as exc:
        reason = os_reason(exc) if isinstance(exc, OSError) else str(exc)
        raise FailedError(f"{start} access working directory '{directory}': {reason}") from None
    if not stat.S_ISDIR(mode):
        raise FailedError(
            f"{start} execute command '{command}' because '{directory}' is not a directory"
        )


def spawn(
    launch: Launch, stdin: int, stdout: int, stderr: int, path: str
) -> "subprocess.Popen[bytes]":
    """Start a child. Only the reaper may wait for it.

    Args:
        launch: what to run.
        stdin: descriptor, or `subprocess.DEVNULL`.
        stdout: descriptor.
        stderr: descriptor.
        path: the daemon's PATH.

    Raises:
        FailedError: the kernel refused, with its reason.
    """
    program = _find_shell(launch.shell, path)
    who = launch.identity
    try:
        child = subprocess.Popen(  # noqa: S603 - running commands is what the daemon is for
            _arguments(launch),
            executable=program,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=launch.directory or None,
            env=launch.environment,
            start_new_session=True,
            user=None if who is None else who.uid,
            group=None if who is None else who.gid,
            extra_groups=None if who is None else who.groups,
            preexec_fn=_take_terminal if launch.terminal else None,  # noqa: PLW1509 - one ioctl
        )
    except OSError as exc:
        what = exc.filename if exc.filename == launch.directory else program
        raise FailedError(f"failed to start process: fork/exec {what}: {os_reason(exc)}") from None
    _expose(child.pid, *read_children(child.pid, child.pid))  # it may have forked by now
    return child


def _arguments(launch: Launch) -> list[str]:
    command = [] if launch.command is None else [launch.command]
    return [launch.shell, *launch.shell_args, *command]


def _take_terminal() -> None:
    """In the child, which leads a new session: its stdin is the session's terminal
    (ioctl_tty(2))."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def spawn_worker(
    command: Sequence[str], environment: Mapping[str, str], stdin: int, stdout: int
) -> "subprocess.Popen[bytes]":
    """Start a process that does a piece of the daemon's own work. Only the reaper may wait for it.

    Args:
        command: program and arguments.
        environment: its whole environment.
        stdin: descriptor.
        stdout: descriptor.

    Raises:
        UnavailableError: the kernel refused, with its reason.
    """
    try:
        child = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as exc:
        raise UnavailableError(f"cannot start a worker process: {os_reason(exc)}") from None
    _expose(child.pid)
    return child


def _expose(*pids: int) -> None:
    """When memory runs out, the daemon survives its children; best effort."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_bytes(OOM_SCORE)


def _find_shell(shell: str, path: str) -> str:
    if "/" in shell:
        return shell
    found = shutil.which(shell, path=path or os.defpath)
    if found is None:
        raise FailedError(
            f'failed to start process: exec: "{shell}": executable file not found in $PATH; '
            "set SHELL to the path of a shell in this image"
        )
    return found
