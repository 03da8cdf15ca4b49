"""Each line that a process writes, as a line of the daemon's own log (spec/process.md 9)."""

import logging

from sandbox_api.core.processes import Process
from sandbox_api.core.processes.journal import Kind
from sandbox_api.core.processes.relay import Told

log = logging.getLogger("sandbox_api.process")


def log_line(process: Process, told: Told) -> None:
    """Write one line, or how many bytes were left out.

    Args:
        process: whose.
        told: what.
    """
    fields = {"source": "process", "process-name": process.name, "process-pid": str(process.pid)}
    if told.skipped:
        log.warning(
            "%d bytes of output are not shown here",
            told.skipped,
            extra={**fields, "skipped": told.skipped},
        )
        return
    level = logging.ERROR if told.kind is Kind.STDERR else logging.INFO
    log.log(level, "%s", told.text, extra={**fields, "stream": told.kind.name.lower()})
