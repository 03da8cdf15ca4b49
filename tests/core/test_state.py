"""The state directory: private, ours, one daemon a port."""

import os
import stat
from pathlib import Path

import pytest

from sandbox_api.core.state import open_state, open_subdirectory, state_candidates


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that does not exist yet."""
    return tmp_path / "state" / "sandbox-api"


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_private_and_one_for_each_port(place: Path) -> None:
    """Records hold secrets of environments: nobody else reads them; two ports do not meet."""
    with open_state([place], 8080) as one, open_state([place], 8081) as other:
        assert (one, other) == (place / "8080", place / "8081")
        assert mode(place) == mode(place / "8080") == 0o700


def test_a_second_daemon_of_the_port_runs_from_memory(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two daemons never write the same records; the second says why it keeps none."""
    with open_state([place], 8080), open_state([place], 8080) as second:
        assert second is None
    assert "kept in memory" in caplog.text
    assert "in use by another daemon" in caplog.records[0].__dict__["tried"]
    with open_state([place], 8080) as again:
        assert again == place / "8080"


def test_the_first_that_is_usable_is_taken(tmp_path: Path, place: Path) -> None:
    """A candidate that cannot be a directory is passed over."""
    (tmp_path / "file").write_text("in the way")
    with open_state([tmp_path / "file", tmp_path / "file" / "below", place], 1) as state:
        assert state == place / "1"


def test_a_link_is_refused(tmp_path: Path, place: Path) -> None:
    """Whoever plants a link does not choose where the daemon writes, and what follows."""
    (tmp_path / "elsewhere").mkdir()
    place.parent.mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with open_state([place], 1) as state:
        assert state is None
    place.unlink()
    place.mkdir(mode=0o700)
    (place / "1").symlink_to(tmp_path / "elsewhere")
    with open_state([place], 1) as state:
        assert state is None
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_foreign_owner_is_refused(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that somebody made in advance, in /tmp, is his."""
    place.mkdir(parents=True, mode=0o700)
    os.chown(place, 65534, 65534)
    with open_state([place], 1) as state:
        assert state is None
    assert "owned by another user" in caplog.records[0].__dict__["tried"]


def test_a_directory_that_others_write_to_is_refused(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a shared directory somebody could take ours away; its mode is not ours to change."""
    place.mkdir(parents=True)
    place.chmod(0o777)
    with open_state([place], 1) as state:
        assert state is None
    assert mode(place) == 0o777
    assert "others can write" in caplog.records[0].__dict__["tried"]


def test_an_existing_directory_keeps_its_mode(place: Path) -> None:
    """SANDBOX_STATE_DIR=/var does not lock everybody out of /var; what is ours below is private."""
    place.mkdir(parents=True, mode=0o755)
    (place / "1").mkdir(mode=0o755)
    with open_state([place], 1) as state:
        assert state == place / "1"
    assert mode(place) == 0o755
    assert mode(place / "1") == 0o700


def test_candidates_are_those_of_the_documentation() -> None:
    """An explicit one is the only one; what is unset does not become a relative path."""
    assert state_candidates("/x", "/xdg", "/home/u", "/tmp") == [Path("/x")]
    assert state_candidates("", "/xdg", "/home/u", "") == [
        Path("/var/lib/sandbox-api"),
        Path("/xdg/sandbox-api"),
        Path("/home/u/.local/state/sandbox-api"),
        Path(f"/tmp/sandbox-api-{os.geteuid()}"),
    ]
    assert len(state_candidates("", "", "", "/var/tmp")) == 2


def test_a_directory_below_or_where_a_setting_says(tmp_path: Path) -> None:
    """SANDBOX_LOG_DIR is used as given, by one daemon at a time; nothing without a state."""
    with open_subdirectory(None, "runs", str(tmp_path / "logs")) as directory:
        assert directory is None
    with open_subdirectory(tmp_path, "runs") as directory:
        assert directory == tmp_path / "runs"
        assert mode(tmp_path / "runs") == 0o700
    with (
        open_subdirectory(tmp_path, "runs", str(tmp_path / "logs")) as directory,
        open_subdirectory(tmp_path, "runs", str(tmp_path / "logs")) as second,
    ):
        assert directory == tmp_path / "logs"
        assert second is None
    (tmp_path / "file").write_text("in the way")
    with open_subdirectory(tmp_path, "runs", str(tmp_path / "file" / "logs")) as directory:
        assert directory is None
