"""What the README shows works as it stands there."""

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

README = Path(__file__).parents[2] / "README.md"


def test_tour_works(start_daemon: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    """A newcomer who copies the tour gets answers, not errors."""
    daemon = start_daemon()
    with socket.socket() as listener:
        listener.bind(("", 0))
        app_port = listener.getsockname()[1]
    (tour,) = re.findall(r"```sh\n(B=.*?)```", README.read_text(), re.DOTALL)
    tour = tour.replace("localhost:8080", f"localhost:{daemon.port}")
    tour = tour.replace("3000", str(app_port)).replace("/tmp/", f"{tmp_path}/")
    result = subprocess.run(
        ["sh", "-eux", "-c", 'curl() { command curl -sS --fail-with-body "$@"; echo; }\n' + tour],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for expected in (
        '"message":"File created/updated successfully"',
        '"message":"Binary file uploaded successfully"',
        '"stdout":"out\\n","stderr":"err\\n"',
        '"exitCode":3',
        "\nhello\n",
        '"status":"running"',
        "stderr:",
        '"message":"Process stopped successfully"',
        '{"type":"stdout","data":"3\\n"}',
    ):
        assert expected in result.stdout, expected
    assert (tmp_path / "site/random.bin").read_bytes() == (tmp_path / "random").read_bytes()


def test_every_setting_is_in_the_table() -> None:
    """Whoever looks for a variable finds it in the README, and what stands there is read."""
    package = README.parent / "sandbox_api"
    settings = (package / "settings.py").read_text()
    read = set(re.findall(r'read\.\w+\(\s*"([A-Z_]+)"', settings)) | {"SANDBOX_API_TOKEN"}
    (table,) = re.findall(r"\| variable \|.*?\n\n", README.read_text(), re.DOTALL)
    told = {
        name
        for row in table.strip().splitlines()
        for name in re.findall("`(.*?)`", row.split("|")[1])
    }
    assert read <= told
    sources = "".join(path.read_text() for path in package.rglob("*.py"))
    assert {name for name in told if f'"{name}"' not in sources} == set()
