"""What the daemon was built from: scripts/build puts values of its own here."""

COMMIT = "unknown"
TIME = "unknown"
