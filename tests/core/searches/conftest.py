"""What tests of searches share."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sandbox_api.core.searches import listings, prefilter


def make(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a directory."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.fixture(scope="module", params=["compiled", "python"])
def both(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test twice: with the compiled module, where it was built, and without it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(prefilter, "native", None)
            patch.setattr(listings, "native", None)
        yield
