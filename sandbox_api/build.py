"""What the daemon was built from, and what differs in the file: scripts/build puts its own here."""

COMMIT = "unknown"
TIME = "unknown"


def trim_memory() -> None:
    """Give memory back that only the start needed; a running Python has none to give."""
