"""Processes: starting, following, ending and remembering commands (spec/process.md).

| module | owns |
|---|---|
| `processes` | all processes, their life over restarts |
| `process`, `supervision` | one process: what was asked for, what became of it; its life |
| `registry` | what is remembered, and what an identifier means |
| `spawn`, `reaper` | starting a child, and its status |
| `tree`, `ending` | everything a run has started, and ending it |
| `storage`, `logfile`, `journal`, `output` | where output is kept: bytes, order, the one reader |
| `records`, `restore`, `adoption` | what outlives the daemon, and finding it again |
| `stdin`, `readiness` | writing to a process, waiting until it listens |
| `cursor`, `follower`, `framing`, `tail` | reading it: pieces, live, as lines, the end of it |
"""

from sandbox_api.core.processes.process import Process, ProcessSpec, Status
from sandbox_api.core.processes.processes import Directories, Limits, Processes

__all__ = ["Directories", "Limits", "Process", "ProcessSpec", "Processes", "Status"]
