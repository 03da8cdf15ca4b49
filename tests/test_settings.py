"""Settings from the environment, `.env` and the environment file."""

import os
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidError
from sandbox_api.settings import Settings, parse_settings, read_token, take_environment


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    """What a bare image gets."""
    settings = parse_settings({})
    assert (settings.port, settings.user, settings.token) == (8080, "", "")
    assert settings.workdir == str(tmp_path)
    assert settings.log_requests
    assert not settings.processing_time


def test_flags_win_over_the_environment() -> None:
    """And a flag that was not given changes nothing."""
    environment = {"BL_SANDBOX_USER": "app", "BL_SANDBOX_USER_ENABLED": "1"}
    assert parse_settings(environment, user=None).user == "app"
    assert parse_settings(environment, user="nobody").user == "nobody"


@pytest.mark.parametrize(("enabled", "user"), [("true", "app"), ("yes", ""), ("0", ""), ("", "")])
def test_the_workload_user_has_a_switch(enabled: str, user: str) -> None:
    """BL_SANDBOX_USER alone does nothing."""
    environment = {"BL_SANDBOX_USER": "app", "BL_SANDBOX_USER_ENABLED": enabled}
    assert parse_settings(environment).user == user


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "٣"])
def test_a_number_that_is_none_is_an_error(value: str) -> None:
    """Never a silent default; the text names the variable."""
    with pytest.raises(InvalidError, match="SANDBOX_MAX_JSON_BYTES"):
        parse_settings({"SANDBOX_MAX_JSON_BYTES": value})


def test_a_search_needs_some_time() -> None:
    """Zero is not without a limit here, so it is not taken for it."""
    assert parse_settings({"SANDBOX_SEARCH_TIMEOUT_SECONDS": "5"}).search_timeout_s == 5
    with pytest.raises(InvalidError, match="SANDBOX_SEARCH_TIMEOUT_SECONDS"):
        parse_settings({"SANDBOX_SEARCH_TIMEOUT_SECONDS": "0"})


def test_lists_are_split_at_commas() -> None:
    """White space and empty items do not count."""
    settings = parse_settings({"SANDBOX_ALLOWED_HOSTS": " a.example, ,*.b.example,"})
    assert settings.allowed_hosts == ("a.example", "*.b.example")


def test_g30_the_token_is_no_variable_of_children_and_not_shown() -> None:
    """Neither what children inherit nor what is logged at start holds it."""
    settings = parse_settings({"SANDBOX_API_TOKEN": "hush", "A": "b"})
    assert settings.token == "hush"
    assert settings.launch_environment == {"A": "b"}
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings.masked())


def test_masked_keeps_environments_and_commands_out_of_the_log() -> None:
    """They hold secrets of the workload."""
    settings = Settings(command="hush", launch_environment={"A": "hush"}, port=1)
    assert "hush" not in str(settings.masked())
    assert settings.masked()["port"] == 1


def test_dotenv_fills_what_is_missing() -> None:
    """Quotes, `export`, comments; a variable that is set already wins."""
    Path(".env").write_text(
        "# comment\nexport A='x y'\nB=\"two\\nlines\"\nC=lost # comment\nD=\nbroken line\nE=a$b\n"
    )
    settings = parse_settings({"C": "kept"})
    assert settings.extra_environment == {"A": "x y", "B": "two\nlines", "D": "", "E": "a$b"}
    assert settings.launch_environment == {"C": "kept"}


def test_dotenv_never_sets_what_steers_the_daemon() -> None:
    """The workload can often write it."""
    names = ["SANDBOX_API_TOKEN", "SANDBOX_ANYTHING", "SHELL", "SHELL_ARGS", "WORKDIR", "HOME"]
    names += ["BL_SANDBOX_USER", "BL_ENV_VAR_PATH", "DISABLE_REQUEST_LOGGING", "PATH", "TMPDIR"]
    Path(".env").write_text("".join(f"{name}=evil\n" for name in names) + "MY_APP=1\n")
    settings = parse_settings({})
    assert settings.extra_environment == {"MY_APP": "1"}
    assert (settings.token, settings.user, settings.log_requests) == ("", "", True)


@pytest.mark.parametrize("content", [b"A=\xff\xfe\nB=1\n", b"A=x\0y\nB=1\n", b"=x\nB=1\n"])
def test_dotenv_may_hold_anything(content: bytes) -> None:
    """What no program can be started with is left out; the rest counts."""
    Path(".env").write_bytes(content)
    extra = parse_settings({}).extra_environment
    assert extra["B"] == "1"
    assert all("\0" not in name + value for name, value in extra.items())


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo, lambda p: p.symlink_to(p)])
def test_dotenv_may_be_no_file(make: object) -> None:
    """A directory, a pipe, a link to itself: read as nothing, and nobody waits."""
    make(Path(".env"))  # type: ignore[operator]
    assert parse_settings({}).extra_environment == {}


def test_a_huge_dotenv_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """It is refused with a warning."""
    with Path(".env").open("wb") as file:
        file.truncate(1 << 30)
    assert parse_settings({}).extra_environment == {}
    assert ".env is not read" in caplog.text


def test_the_environment_file_fills_what_is_missing(tmp_path: Path) -> None:
    """Pairs of name and value between NULs (spec/system.md 9); it may set the daemon's names."""
    path = tmp_path / "variables"
    path.write_bytes(
        b"A\0two\nlines=\0B\0lost\0\0no name\0C\0old\0C\0new\0SHELL\0/bin/bash\0"
        b"X=Y\0z\0\xff\0\xff\0end"
    )
    settings = parse_settings({"BL_ENV_VAR_PATH": str(path), "B": "kept"})
    assert settings.launch_environment == {
        "A": "two\nlines=",
        "B": "kept",
        "C": "new",
        "SHELL": "/bin/bash",
        "\udcff": "\udcff",
        "BL_ENV_VAR_PATH": str(path),
    }
    path.write_bytes(b"BL_SANDBOX_USER\0app\0BL_SANDBOX_USER_ENABLED\0true\0")
    assert parse_settings({"BL_ENV_VAR_PATH": str(path)}).user == "app"


@pytest.mark.parametrize("content", [None, b"", b"name without value"])
def test_an_environment_file_without_pairs_is_an_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    """The daemon starts nevertheless."""
    path = tmp_path / "variables"
    if content is not None:
        path.write_bytes(content)
    parse_settings({"BL_ENV_VAR_PATH": str(path)})
    assert f"BL_ENV_VAR_PATH={path}" in caplog.text


def test_the_token_file(tmp_path: Path) -> None:
    """White space around the token does not count; no token is an error, never an open daemon."""
    path = tmp_path / "token"
    with pytest.raises(InvalidError, match="token-file"):
        read_token(str(path))
    path.write_text(" \n")
    with pytest.raises(InvalidError, match="empty"):
        read_token(str(path))
    path.write_text("hush\n")
    assert read_token(str(path)) == "hush"


def test_take_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the token, which the original then no longer has."""
    monkeypatch.setenv("SANDBOX_API_TOKEN", "hush")
    assert take_environment()["SANDBOX_API_TOKEN"] == "hush"
    assert "SANDBOX_API_TOKEN" not in os.environ
