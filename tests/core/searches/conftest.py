"""What tests of searches share."""

from collections.abc import Mapping
from pathlib import Path


def make(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a directory."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root
