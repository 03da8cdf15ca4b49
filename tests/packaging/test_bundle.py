"""What the built file carries."""

from bundle import ORIGIN, RUNTIME


def test_no_file_has_the_path_of_a_module() -> None:
    """The daemon's own code must not be taken for a file that somebody puts below its directory:
    paths are absolute, in code (bundle.py) and in modules (importer.py)."""
    assert ORIGIN.startswith("/")
    assert f'\nORIGIN = "{ORIGIN}/"' in (RUNTIME / "importer.py").read_text()
