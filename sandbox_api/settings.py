"""The daemon's settings: one frozen value, and the only reader of the environment.

Names of variables are the reference's (spec/system.md 15) or start with `SANDBOX_`. A setting that
does not parse is an error at start, never a silent default.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from dotenv import dotenv_values

from sandbox_api.errors import InvalidError

MIB = 1 << 20
TOKEN_VARIABLE = "SANDBOX_API_TOKEN"  # noqa: S105 - a variable's name, not a secret
TRUTHY = frozenset({"1", "t", "T", "true", "TRUE", "True"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default. Tests construct it directly."""

    # flags
    port: int = 8080
    command: str = ""
    user: str = ""

    # access (design.md 7)
    token: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    # HTTP edge
    log_requests: bool = True
    processing_time: bool = False
    max_json_bytes: int = 64 * MIB
    max_content_bytes: int = 32 * MIB

    # files
    workdir: str = ""
    home: str = ""
    fsync: bool = False

    # processes
    shell: str = "sh"
    shell_args: tuple[str, ...] = ("-c",)
    state_dir: str = ""
    log_dir: str = ""
    max_log_tail_bytes: int = 64 * 1024
    max_log_reply_bytes: int = 4 * MIB
    keep_alive_disabled: bool = False

    # what /health tells
    upgrade_count: int = 0

    # what children inherit (design.md 7): the launch environment without the token, then the rest
    launch_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def masked(self) -> dict[str, object]:
        """For the log at start: every setting but secrets and environments."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}


def take_environment() -> dict[str, str]:
    """A copy of the process's environment; the token is removed from the original.

    What stays would be readable in /proc/self/environ by every child of the same user, so the
    block itself loses it as well where the C library lets it go.
    """
    environment = dict(os.environ)
    os.environ.pop(TOKEN_VARIABLE, None)
    return environment


def read_dotenv(directory: str) -> dict[str, str]:
    """`.env` of a directory (dotenv syntax); absent or unreadable is empty."""
    path = Path(directory, ".env")
    try:
        if not path.is_file():
            return {}
        values = dotenv_values(path, interpolate=False)
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in values.items() if value is not None}


def parse_settings(environment: Mapping[str, str], **flags: object) -> Settings:
    """Settings from an environment; flags that were given win.

    Args:
        environment: as `take_environment` returns it.
        flags: fields of `Settings` by name.

    Raises:
        InvalidError: a value does not parse; the text names the variable.
    """
    read = _Reader(environment)
    launch = {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}
    values: dict[str, object] = {
        "user": read.text("BL_SANDBOX_USER") if read.truthy("BL_SANDBOX_USER_ENABLED") else "",
        "token": read.text(TOKEN_VARIABLE).strip(),
        "allowed_hosts": read.names("SANDBOX_ALLOWED_HOSTS"),
        "allowed_origins": read.names("SANDBOX_ALLOWED_ORIGINS"),
        "log_requests": read.text("DISABLE_REQUEST_LOGGING") != "true",
        "processing_time": read.text("ENABLE_PROCESSING_TIME") == "true",
        "max_json_bytes": read.size("SANDBOX_MAX_JSON_BYTES", Settings.max_json_bytes),
        "max_content_bytes": read.size("SANDBOX_MAX_CONTENT_BYTES", Settings.max_content_bytes),
        "workdir": read.text("WORKDIR") or _working_directory(),
        "home": read.text("HOME"),
        "fsync": read.truthy("SANDBOX_FSYNC"),
        "shell": read.text("SHELL") or Settings.shell,
        "shell_args": tuple(read.text("SHELL_ARGS").split()) or Settings.shell_args,
        "state_dir": read.text("SANDBOX_STATE_DIR"),
        "log_dir": read.text("SANDBOX_LOG_DIR"),
        "max_log_tail_bytes": read.size(
            "SANDBOX_MAX_IN_MEMORY_LOG_BYTES", Settings.max_log_tail_bytes
        ),
        "max_log_reply_bytes": read.size(
            "SANDBOX_MAX_LOGS_RESPONSE_BYTES", Settings.max_log_reply_bytes
        ),
        "keep_alive_disabled": read.truthy("BL_DISABLE_KEEPALIVE"),
        "upgrade_count": read.size("SANDBOX_UPGRADE_COUNT", 0),
        "launch_environment": launch,
        "extra_environment": _extra_environment(launch),
    }
    given = {name: value for name, value in flags.items() if value is not None}
    return Settings(**{**values, **given})  # type: ignore[arg-type]


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "/"


def _extra_environment(launch: Mapping[str, str]) -> dict[str, str]:
    """`.env` below the launch environment. It never sets a name that is the daemon's own."""
    extra = read_dotenv(_working_directory())
    return {name: value for name, value in extra.items() if name not in launch and not _own(name)}


def _own(name: str) -> bool:
    return name.startswith(("SANDBOX_", "BL_", "BLAXEL_")) or name in _OWN_NAMES


_OWN_NAMES = frozenset(
    {
        "SHELL",
        "SHELL_ARGS",
        "HOME",
        "WORKDIR",
        "DISABLE_REQUEST_LOGGING",
        "ENABLE_PROCESSING_TIME",
        "DISABLE_TERMINAL",
    }
)


class _Reader:
    """Typed look-ups in an environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str:
        return self._environment.get(name, "")

    def truthy(self, name: str) -> bool:
        return self.text(name).strip() in TRUTHY

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(item.strip() for item in self.text(name).split(",") if item.strip())

    def size(self, name: str, default: int) -> int:
        value = self.text(name).strip()
        if not value:
            return default
        if not (value.isascii() and value.isdigit()):
            raise InvalidError(f"{name}={value}: must be a whole number of at least 0")
        return int(value)
