"""Terminals: shells on pseudo terminals that clients attach to and leave.

| module | owns |
|---|---|
| `terminals` | all sessions: by id, how many, until when |
| `terminal` | one session: its shell, its clients, the pace of its output |
| `pty` | the descriptor of a pseudo terminal |
| `history` | the last output, each byte with a number |
| `keystrokes` | the command lines in what somebody types, for the audit |
"""

from sandbox_api.core.terminals.terminal import Terminal, View
from sandbox_api.core.terminals.terminals import Terminals, TerminalSpec

__all__ = ["Terminal", "TerminalSpec", "Terminals", "View"]
