"""Some lines of a file."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_api.core import lines
from sandbox_api.core.lines import read_lines
from sandbox_api.core.paths import Location
from sandbox_api.errors import InvalidError, TooLargeError, UnavailableError


def never() -> bool:
    return False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(alphabet="ab\né", max_size=30), st.integers(-2, 12), st.integers(-2, 12))
def test_lines_are_those_of_split(tmp_path: Path, text: str, start: int, end: int) -> None:
    """However blocks cut the file, and whatever range is asked for."""
    file = tmp_path / "f"
    file.write_text(text, newline="")
    whole = text.split("\n")
    possible = 1 <= start <= end + 1 <= len(whole) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_READ_BYTES", 3)
        if possible:
            found = read_lines(Location("f", str(file)), start, end, never)
            assert found == "\n".join(whole[start - 1 : end])
        else:
            with pytest.raises(InvalidError, match="invalid line range"):
                read_lines(Location("f", str(file)), start, end, never)


def test_long_lines_and_long_files_have_a_limit(tmp_path: Path) -> None:
    """Memory and time are bounded."""
    file = tmp_path / "f"
    file.write_bytes(b"x" * (2 << 20))
    with pytest.raises(TooLargeError, match="read fewer"):
        read_lines(Location("f", str(file)), 1, 1, never)
    with pytest.raises(UnavailableError, match="too long"):
        read_lines(Location("f", str(file)), 2, 2, lambda: True)
