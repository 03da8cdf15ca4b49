"""The daemon's settings: one frozen value, and the only reader of the environment.

Names of variables are the reference's (spec/system.md 15) or start with `SANDBOX_`. A setting that
does not parse is an error at start, never a silent default.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values

from sandbox_api.core import linux
from sandbox_api.errors import InvalidError

log = logging.getLogger(__name__)

MIB = 1 << 20
DEFAULT_SCALE_FILE = "/uk/libukp/scale_to_zero_disable"
MAX_ENVIRONMENT_BYTES = 4 * MIB
TOKEN_VARIABLE = "SANDBOX_API_TOKEN"  # noqa: S105 - a variable's name, not a secret
TRUTHY = frozenset({"1", "t", "T", "true", "TRUE", "True"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default. Tests construct it directly."""

    # flags
    port: int = 8080
    command: str = field(default="", repr=False)
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
    max_tree_bytes: int = 256 * MIB

    # files
    workdir: str = ""
    home: str = ""
    fsync: bool = False
    upload_expiry_hours: int = 24
    search_timeout_s: int = 30

    # processes
    state_dir: str = ""
    log_dir: str = ""
    records_dir: str = ""
    stop_grace_s: int = 10
    max_records: int = 10_000
    max_record_days: int = 7
    max_log_bytes_total: int = 0
    max_log_percent: int = 10
    max_log_file_bytes: int = 0
    max_log_tail_bytes: int = 64 * 1024
    max_log_reply_bytes: int = 4 * MIB
    max_stdin_bytes: int = 0
    log_processes: bool = True
    keep_alive_disabled: bool = False
    scale_file: str = ""

    # terminals; 0 for no such routes
    max_terminals: int = 64

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

    Removing the variable leaves its text in the block that the kernel shows as /proc/PID/environ,
    to every process of the same user. So it is overwritten there as well.
    """
    environment = dict(os.environ)
    if os.environ.pop(TOKEN_VARIABLE, None) is not None:
        try:
            linux.erase_environment(TOKEN_VARIABLE.encode())
        except (OSError, ValueError) as exc:
            log.warning(
                "the token stays readable in /proc/self/environ for processes of this user: %s; "
                "use --token-file instead",
                exc,
            )
    return environment


def read_token(path: str) -> str:
    """The token in a file, without the white space around it.

    Raises:
        InvalidError: unreadable or empty: a daemon that was to have a token never runs without.
    """
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as exc:
        raise InvalidError(f"--token-file={path}: {exc}") from None
    if not token:
        raise InvalidError(f"--token-file={path}: the file is empty; write the token into it")
    return token


def read_dotenv(directory: str) -> dict[str, str]:
    """`.env` of a directory (dotenv syntax); empty where absent, and where unreadable."""
    path = Path(directory, ".env")
    try:
        if not path.is_file():
            return {}
        text = _read_text(path)
    except OSError as exc:
        log.warning("%s is not read: %s", path, exc)
        return {}
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def read_env_file(path: str) -> dict[str, str]:
    """The file that BL_ENV_VAR_PATH names: `NAME NUL VALUE NUL` pairs (spec/system.md 9).

    Empty names are skipped, the last duplicate wins, a name without a value at the end is dropped.
    """
    try:
        parts = _read_text(Path(path)).split("\0")
    except OSError as exc:
        log.error("BL_ENV_VAR_PATH=%s is not read: %s", path, exc)  # noqa: TRY400 - not our fault
        return {}
    names, values = parts[0:-1:2], parts[1:-1:2]
    pairs = {name: value for name, value in zip(names, values, strict=False) if name}
    if pairs:
        log.info("environment file read", extra={"path": path, "variables": len(pairs)})
    else:
        log.error("BL_ENV_VAR_PATH=%s holds no pair NAME NUL VALUE NUL", path)
    return pairs


def _read_text(path: Path) -> str:
    """A small file; bytes that are no UTF-8 are kept as the environment keeps them."""
    with path.open("rb") as file:
        data = file.read(MAX_ENVIRONMENT_BYTES + 1)
    if len(data) > MAX_ENVIRONMENT_BYTES:
        raise OSError(f"larger than {MAX_ENVIRONMENT_BYTES} bytes")
    return os.fsdecode(data)


def parse_settings(environment: Mapping[str, str], **flags: object) -> Settings:
    """Settings from an environment; flags that were given win.

    Args:
        environment: as `take_environment` returns it.
        flags: fields of `Settings` by name.

    Raises:
        InvalidError: a value does not parse; the text names the variable.
    """
    variables = dict(environment)
    if path := variables.get("BL_ENV_VAR_PATH"):
        variables = {**_passable(read_env_file(path)), **variables}
    read = _Reader(variables)
    launch = {name: value for name, value in variables.items() if name != TOKEN_VARIABLE}
    values: dict[str, object] = {
        "user": read.text("BL_SANDBOX_USER") if read.truthy("BL_SANDBOX_USER_ENABLED") else "",
        "token": read.text(TOKEN_VARIABLE).strip(),
        "allowed_hosts": read.names("SANDBOX_ALLOWED_HOSTS"),
        "allowed_origins": read.names("SANDBOX_ALLOWED_ORIGINS"),
        "log_requests": read.text("DISABLE_REQUEST_LOGGING") != "true",
        "processing_time": read.text("ENABLE_PROCESSING_TIME") == "true",
        "max_json_bytes": read.size("SANDBOX_MAX_JSON_BYTES", Settings.max_json_bytes),
        "max_content_bytes": read.size("SANDBOX_MAX_CONTENT_BYTES", Settings.max_content_bytes),
        "max_tree_bytes": read.size("SANDBOX_MAX_TREE_BYTES", Settings.max_tree_bytes),
        "workdir": read.text("WORKDIR") or _working_directory(),
        "home": read.text("HOME"),
        "fsync": read.truthy("SANDBOX_FSYNC"),
        "upload_expiry_hours": read.size(
            "SANDBOX_UPLOAD_EXPIRY_HOURS", Settings.upload_expiry_hours
        ),
        "search_timeout_s": read.seconds(
            "SANDBOX_SEARCH_TIMEOUT_SECONDS", Settings.search_timeout_s
        ),
        **_process_settings(read),
        "max_terminals": _max_terminals(read),
        "upgrade_count": read.size("SANDBOX_UPGRADE_COUNT", 0),
        "launch_environment": launch,
        "extra_environment": _extra_environment(launch),
    }
    given = {name: value for name, value in flags.items() if value is not None}
    return Settings(**{**values, **given})  # type: ignore[arg-type]


def _process_settings(read: "_Reader") -> dict[str, object]:
    return {
        "state_dir": read.text("SANDBOX_STATE_DIR"),
        "log_dir": read.text("SANDBOX_LOG_DIR"),
        "records_dir": _records_dir(read.text("SANDBOX_STATE_FILE")),
        "max_log_tail_bytes": read.size(
            "SANDBOX_MAX_IN_MEMORY_LOG_BYTES", Settings.max_log_tail_bytes
        ),
        "stop_grace_s": read.size("SANDBOX_STOP_GRACE_SECONDS", Settings.stop_grace_s),
        "max_records": read.size("SANDBOX_MAX_PROCESS_RECORDS", Settings.max_records),
        "max_record_days": read.size("SANDBOX_PROCESS_RECORD_DAYS", Settings.max_record_days),
        "max_log_bytes_total": read.size("SANDBOX_MAX_LOG_BYTES_TOTAL", 0),
        "max_log_percent": read.percent("SANDBOX_MAX_LOG_PERCENT", Settings.max_log_percent),
        "max_log_file_bytes": read.size("SANDBOX_MAX_LOG_FILE_BYTES", 0),
        "max_log_reply_bytes": read.size(
            "SANDBOX_MAX_LOGS_RESPONSE_BYTES", Settings.max_log_reply_bytes
        ),
        "max_stdin_bytes": read.size("SANDBOX_MAX_STDIN_BYTES", 0),
        "log_processes": read.text("SANDBOX_DISABLE_PROCESS_LOGGING") not in {"true", "1"},
        "scale_file": read.text("BLAXEL_SCALE_FILE") or DEFAULT_SCALE_FILE,
        "keep_alive_disabled": read.truthy("BL_DISABLE_KEEPALIVE"),
    }


def _max_terminals(read: "_Reader") -> int:
    if read.text("DISABLE_TERMINAL") in {"true", "1"}:
        return 0
    return read.size("SANDBOX_MAX_TERMINALS", Settings.max_terminals)


def _records_dir(state_file: str) -> str:
    """The reference keeps all processes in one file; here each has its own, beside that name."""
    return f"{state_file}.d" if state_file else ""


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "/"


def _extra_environment(launch: Mapping[str, str]) -> dict[str, str]:
    """`.env` below the launch environment. It never sets a name that is the daemon's own.

    Its directory often belongs to the workload, which must not steer the next start of the daemon
    (spec/system.md 17, 15).
    """
    extra = _passable(read_dotenv(_working_directory()))
    return {name: value for name, value in extra.items() if name not in launch and not _own(name)}


def _passable(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what no program can be started with: it would make every start fail."""
    return {
        name: value
        for name, value in variables.items()
        if name and "=" not in name and "\0" not in name and "\0" not in value
    }


def _own(name: str) -> bool:
    return name.startswith(("SANDBOX_", "BLFS_")) or name in _OWN_NAMES


# spec/system.md 15; the names of proxies and certificates in .env reach children only
_OWN_NAMES = frozenset(
    {
        "AIR_TMP_DIR",
        "BLAXEL_SCALE_FILE",
        "BL_DISABLE_KEEPALIVE",
        "BL_ENV",
        "BL_ENV_VAR_PATH",
        "BL_METADATA_PATH",
        "BL_NAME",
        "BL_NETWORKING_CONFIG",
        "BL_SANDBOX_USER",
        "BL_SANDBOX_USER_ENABLED",
        "BL_WORKSPACE",
        "BL_WORKSPACE_ID",
        "DISABLE_REQUEST_LOGGING",
        "DISABLE_TERMINAL",
        "ENABLE_PROCESSING_TIME",
        "HOME",
        "PATH",
        "SHELL",
        "SHELL_ARGS",
        "TMPDIR",
        "WORKDIR",
        "XDG_STATE_HOME",
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

    def seconds(self, name: str, default: int) -> int:
        value = self.size(name, default)
        if value == 0:
            raise InvalidError(f"{name}=0: must be at least 1")
        return value

    def percent(self, name: str, default: int) -> int:
        value = self.size(name, default)
        if not 1 <= value <= 100:  # noqa: PLR2004 - per cent
            raise InvalidError(f"{name}={value}: must be from 1 to 100")
        return value
