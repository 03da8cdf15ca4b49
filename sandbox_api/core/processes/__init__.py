"""Processes: starting, following, ending and remembering commands (spec/process.md).

| module | owns |
|---|---|
| `processes` | all processes, their life over restarts |
| `process`, `supervision` | one process: what was asked for, what became of it; its life |
| `registry` | what is remembered, and what an identifier means |
| `spawn`, `reaper` | starting a child, and its status |
| `tree`, `cgroup`, `hierarchy`, `ending` | everything a run has started, and ending it |
| `oom` | which deaths were for memory |
| `host` | what the engine shares with the rest of the daemon |
| `storage`, `logfile`, `journal`, `output` | where output is kept: bytes, order, the one reader |
| `reading`, `budget` | who reads, and what gives way when space gets short |
| `records`, `restore`, `adoption` | what outlives the daemon, and finding it again |
| `holder`, `holding` | what stands in pipes when the daemon dies |
| `stdin`, `readiness` | writing to a process, waiting until it listens |
| `cursor`, `follower`, `framing` | reading it: pieces, live, as lines |
| `begin`, `page`, `tail` | where a reader begins; a part of it and the end of it as text |
| `relay` | its lines, for the daemon's own log |
"""

from sandbox_api.core.processes.process import Process, ProcessSpec, Status
from sandbox_api.core.processes.processes import Limits, Processes
from sandbox_api.core.processes.storage import Directories

__all__ = ["Directories", "Limits", "Process", "ProcessSpec", "Processes", "Status"]
