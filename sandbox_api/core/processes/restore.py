"""Finding again what a daemon before this one left: processes, logs and pipes (design.md 4)."""

import gc
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sandbox_api.core.identity import Identity
from sandbox_api.core.processes.adoption import Adoptions
from sandbox_api.core.processes.budget import Budget
from sandbox_api.core.processes.holder import Holder, exit_name, held_still
from sandbox_api.core.processes.output import Output
from sandbox_api.core.processes.process import Process
from sandbox_api.core.processes.reaper import UNKNOWN_EXIT, Child, exit_of
from sandbox_api.core.processes.records import Record, Records
from sandbox_api.core.processes.storage import RUN_NAME, Directories, RunDirectory
from sandbox_api.core.processes.tree import find_leader

log = logging.getLogger(__name__)


def restore_processes(
    records: Records,
    adoptions: Adoptions,
    directories: Directories,
    identity: Identity | None,
    budget: Budget,
    holder: Holder | None,
) -> Iterator[Process]:
    """Every process that was saved, oldest first; then what no record names is removed, where
    nobody else keeps runs.

    A process that still lives is watched again; of one that ended meanwhile, the end is known where
    the kernel tells it.

    Args:
        records: where they were saved.
        adoptions: watches those that live.
        directories: where their runs are kept.
        identity: the workload user, for pipes that have to be made anew.
        budget: bounds all output together.
        holder: keeps what pipes hold when the daemon dies.
    """
    with held_still(directories.runs, but=holder), _no_collections():
        records.clean()
        for record in records.load():
            storage = RunDirectory(f"{directories.runs}/{record.run}", identity)
            try:
                output = Output(storage, budget, holder, restored=True, end=record.end)
            except OSError as exc:
                log.warning("the output of process %s is lost: %s", record.name, exc)
                continue
            process = _restore(record, storage, output, records, adoptions)
            if process is None:
                output.discard()
                records.forget(record.run)
                continue
            yield process
        if holder is not None:
            holder.flush()  # before others let go
        if directories.exclusive:
            _remove_unknown(directories.runs, frozenset(records.runs()))


@contextmanager
def _no_collections() -> Iterator[None]:
    """No search for garbage while there is none: it takes half of the time of many records."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _restore(
    record: Record,
    storage: RunDirectory,
    output: Output,
    records: Records,
    adoptions: Adoptions,
) -> Process | None:
    """A process; None for one that was about to begin and did not, or has ended: its client got no
    answer."""
    found = record
    if not record.child_pid and records.same_boot(record):
        found = _look_for_child(record, output)
    if not found.pid:
        return None
    process = _process(found, output, _child(found, storage, records, adoptions))
    if found is not record:
        records.save(process)
    return process


def _look_for_child(record: Record, output: Output) -> Record:
    """A daemon has died between the begin of a run and its record: what that should have been."""
    leader = None
    with suppress(OSError):  # without /proc nobody is found
        leader = find_leader(output.pipe_links(), record.child_start)
    if leader is None:
        return record
    return replace(
        record,
        pid=record.pid or leader.pid,
        child_pid=leader.pid,
        child_start=leader.start,
        restarting=False,
    )


def _process(record: Record, output: Output, child: Child) -> Process:
    process = Process(
        spec=record.spec,
        name=record.name,
        working_dir=record.working_dir,
        directory=record.directory,
        output=output,
        pid=record.pid,
        started_at=record.started_at,
        completed_at=record.completed_at,
        status=record.status,
        last_exit=record.last_exit,
        restart_count=record.restart_count,
        wanted_end=record.wanted_end,
        timed_out=record.timed_out,
        restarting=record.restarting,
    )
    process.child = child
    if process.wanted_end is not None:
        process.wanted.set()
    if not process.running:
        process.ended.set()
    return process


def _child(record: Record, storage: RunDirectory, records: Records, adoptions: Adoptions) -> Child:
    pid, start = record.child_pid, record.child_start
    if record.end is not None or record.restarting:
        return adoptions.ended(pid, start, record.last_exit or UNKNOWN_EXIT)
    if not records.same_boot(record):
        return adoptions.ended(pid, start, UNKNOWN_EXIT)
    status = storage.saved_status(exit_name(pid, start))
    if status is not None:
        return adoptions.ended(pid, start, exit_of(status))
    return adoptions.adopt(pid, start)


def _remove_unknown(directory: Path, known: frozenset[str]) -> None:
    """Runs that a crash left without a record. What is not ours in the directory stays."""
    for path in directory.iterdir():
        if path.name not in known and RUN_NAME.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
