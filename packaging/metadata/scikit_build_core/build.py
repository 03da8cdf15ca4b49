"""In place of rapidfuzz's build backend while pip downloads: pip asks for the metadata of what it
downloads, and the real one compiles everything to tell. It is in PKG-INFO."""

import shutil
from pathlib import Path


def prepare_metadata_for_build_wheel(directory: str, config_settings: object = None) -> str:
    """Part of PEP 517; returns the name of the directory that it makes."""
    made = Path(directory, "source-0.dist-info")
    made.mkdir()
    shutil.copy("PKG-INFO", made / "METADATA")
    return made.name


def build_wheel(*_: object) -> str:
    """PEP 517 wants it; nobody asks for it here."""
    raise NotImplementedError
