"""What an image lacks is said, with what follows."""

from pathlib import Path

from sandbox_api.core.surroundings import CONSEQUENCES, missing_parts


def test_nothing_is_said_where_all_is_there(tmp_path: Path) -> None:
    """A usual image starts without a warning."""
    for path in CONSEQUENCES:
        place = tmp_path / path.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert list(missing_parts(str(tmp_path))) == []


def test_each_missing_part_is_said_by_its_name(tmp_path: Path) -> None:
    """An empty root lacks them all."""
    said = list(missing_parts(str(tmp_path)))
    assert [text.split()[0] for text in said] == [
        "/proc",
        "/dev/null",
        "/dev/shm",
        "/tmp",
        "/etc/passwd",
    ]
