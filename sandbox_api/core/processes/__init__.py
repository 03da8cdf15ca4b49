"""Processes: starting, following, ending and remembering commands (spec/process.md).

| module | owns |
|---|---|
| `processes` | all processes, their life over restarts |
| `process` | one process: what was asked for, what became of it |
| `registry` | what is remembered, and what an identifier means |
| `spawn`, `reaper` | starting a child, and its status |
| `tree`, `ending` | everything a run has started, and ending it |
| `storage`, `logfile`, `journal`, `output` | where output is kept: bytes, order, the one reader |
| `cursor`, `follower`, `framing`, `tail` | reading it: pieces, live, as lines, the end of it |
"""

from sandbox_api.core.processes.process import Process, ProcessSpec, Status
from sandbox_api.core.processes.processes import Limits, Processes

__all__ = ["Limits", "Process", "ProcessSpec", "Processes", "Status"]
