"""sandbox-api: the one process in a sandbox that serves files, commands and logs over HTTP."""

__version__ = "0.1.0"
