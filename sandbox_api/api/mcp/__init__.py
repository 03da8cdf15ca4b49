"""The tools that agents see: MCP at `/mcp` and on stdin and stdout (spec/mcp-codegen.md).

| module | owns |
|---|---|
| `routes` | HTTP: headers, bodies, event streams |
| `versions`, `jsonrpc` | the versions of the protocol; messages |
| `server`, `peers`, `sessions` | the methods; who asks; what can be cancelled and subscribed to |
| `tools`, `schemas` | what a tool is; its models as JSON Schema, and what is wrong with arguments |
| `executing`, `processes`, `ports` | tools for commands |
| `files`, `reading`, `searches`, `codegen` | tools for files |
| `resources` | files and logs as resources |
| `watching` | telling how a command goes |

The functions and models of tools have no docstrings: what models and people are to read stands in
`TOOLS` and in the descriptions of fields, once.

The server and the tools are imported when the first request comes: building their models takes
time that a start does not have.
"""

from sandbox_api.api.mcp.routes import ENDPOINT, ROUTES, Endpoint

__all__ = ["ENDPOINT", "ROUTES", "Endpoint"]
