"""Processes as values of the wire."""

from collections.abc import Sequence
from email.utils import formatdate

from sandbox_api.api.schemas.processes import (
    EndReply,
    LogsReply,
    ProcessReply,
    StreamBytes,
    Survivor,
)
from sandbox_api.core.processes import Process
from sandbox_api.core.processes.tail import OutputText
from sandbox_api.core.processes.tree import ProcessStat


def process_reply(
    process: Process, output: OutputText | None, unfinished: str | None = ""
) -> ProcessReply:
    """One process.

    Args:
        process: which.
        output: its captured output; None where none was asked for, which clients know as
            `logs: null`.
        unfinished: what `completedAt` is while it runs: the list has null, all else "".
    """
    text = output or OutputText()
    spec, last = process.spec, process.last_exit
    return ProcessReply(
        pid=str(process.pid),
        name=process.name,
        command=spec.command,
        status=process.status.value,
        started_at=http_date(process.started_at),
        completed_at=unfinished if process.running else http_date(process.completed_at or 0.0),
        exit_code=process.exit_code,
        working_dir=process.working_dir,
        logs=None if output is None else text.logs,
        stdout=text.stdout,
        stderr=text.stderr,
        restart_on_failure=spec.restart_on_failure,
        max_restarts=spec.max_restarts,
        restart_count=process.restart_count,
        keep_alive=process.keeps_alive,
        stdin=process.stdin is not None and process.stdin.open,
        stopping=process.stopping,
        signal=process.signal,
        timed_out=process.timed_out,
        oom_killed=process.oom_killed,
        exit_known=last is None or last.known,
        started_at_ms=round(process.started_at * 1000),
        completed_at_ms=None
        if process.completed_at is None
        else round(process.completed_at * 1000),
        cpu_ms=None if last is None or last.cpu_s is None else round(last.cpu_s * 1000),
        peak_memory_bytes=None if last is None else last.peak_rss_bytes,
    )


def logs_reply(output: OutputText) -> LogsReply:
    """Output, and where to read on."""
    return LogsReply(
        stdout=output.stdout,
        stderr=output.stderr,
        logs=output.logs,
        stdout_offset=output.end.stdout,
        stderr_offset=output.end.stderr,
        truncated=StreamBytes(stdout=output.missing.stdout, stderr=output.missing.stderr),
    )


def end_reply(process: Process, done: str, survivors: Sequence[ProcessStat] = ()) -> EndReply:
    """What a stop or kill has reached.

    Args:
        process: which.
        done: the message for when it has ended.
        survivors: what a kill did not end.
    """
    message = done
    if process.stopping:
        message = "Process is stopping; it is killed when its grace is over, or by DELETE …/kill"
    if survivors:
        names = ", ".join(f"{stat.name} ({stat.pid})" for stat in survivors)
        message = f"Process was killed, but these processes of it have not ended yet: {names}"
    return EndReply(
        message=message,
        pid=str(process.pid),
        name=process.name,
        status=process.status.value,
        stopping=process.stopping,
        survivors=[Survivor(pid=stat.pid, name=stat.name) for stat in survivors],
    )


def http_date(seconds: float) -> str:
    """`Sat, 21 Nov 2026 01:01:39 GMT`."""
    return formatdate(seconds, usegmt=True)
