"""In place of rapidfuzz's build backend while pip downloads: pip asks for the metadata of what it
downloads, and the real one compiles everything to tell. It is in PKG-INFO."""

import shutil
from email.parser import HeaderParser
from pathlib import Path


def prepare_metadata_for_build_wheel(directory: str, config_settings: object = None) -> str:
    """Part of PEP 517; returns the name of the directory that it makes."""
    metadata = HeaderParser().parsestr(Path("PKG-INFO").read_text(encoding="utf-8"))
    made = Path(directory, f"{metadata['Name']}-{metadata['Version']}.dist-info")
    made.mkdir()
    shutil.copy("PKG-INFO", made / "METADATA")
    return made.name


def build_wheel(*_: object) -> str:
    """PEP 517 wants it; what is downloaded here is built by packaging/extensions.py."""
    raise RuntimeError("this stands in for metadata only: packaging/extensions.py builds rapidfuzz")
