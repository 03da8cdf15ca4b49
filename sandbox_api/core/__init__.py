"""What the daemon does: files, processes and their output. Knows nothing of HTTP."""
