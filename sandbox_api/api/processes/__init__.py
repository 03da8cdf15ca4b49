"""Commands over HTTP: `/process` and what is below it (spec/process.md).

| module | owns |
|---|---|
| `routes` | the handlers, but for POST |
| `start` | POST: start a command, answer as the request asks |
| `streams`, `events` | live output; NDJSON events |
| `replies` | a process as values of the wire |
| `log_queries` | which part of the output a request wants, and in which form |
| `log_lines` | its lines in the daemon's own log |
"""

from sandbox_api.api.processes.routes import ROUTES

__all__ = ["ROUTES"]
