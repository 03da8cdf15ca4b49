"""The command line, as existing entrypoints spell it (spec/system.md 3).

One dash or two, `-flag value` or `-flag=value`, and what follows the first argument that is no flag
is left alone: the rules of Go's flag package, which argparse cannot express (`-port` would read as
`-p ort`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

USAGE = """\
usage: sandbox-api [mcp] [flags]

  mcp                   serve MCP on stdin and stdout instead of HTTP on a port

  -p, -port N           port to listen on (default 8080)
  -c, -command LINE     start this shell command with the daemon
  -user SPEC            run commands and file operations as this user:
                        name, uid, name:group or uid:gid
  -token-file PATH      read the token that requests must carry from this file
                        (or set SANDBOX_API_TOKEN)
  -disable-telemetry    accepted and ignored: there is no telemetry
  -version              print the version
  -h, -help             print this text

One dash or two. Settings beyond these are environment variables; see the README.
"""
DEFAULT_PORT = 8080
MAX_PORT = 65535

_VALUES = {
    "p": "p",
    "port": "port",
    "c": "c",
    "command": "command",
    "user": "user",
    "token-file": "token_file",
}
_SWITCHES = {"disable-telemetry": "", "version": "version", "h": "help", "help": "help"}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class UsageError(Exception):
    """A command line that cannot be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says; None where it says nothing."""

    port: int
    command: str | None = None
    user: str | None = None
    token_file: str | None = None
    mcp: bool = False
    version: bool = False
    help: bool = False
    ignored: tuple[str, ...] = ()


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Parse a command line without the program's name.

    Raises:
        UsageError: an unknown flag or a bad value.
    """
    values: dict[str, str] = {}
    switches: dict[str, bool] = {}
    rest = list(arguments)
    mcp = rest[:1] == ["mcp"]
    if mcp:
        rest.pop(0)
    while rest and len(rest[0]) > 1 and rest[0].startswith("-"):
        argument = rest.pop(0)
        if argument == "--":
            break
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if name in _SWITCHES:
            switches[_SWITCHES[name]] = _truth(argument, value if equals else "true")
        elif name not in _VALUES:
            raise UsageError(f"flag provided but not defined: {argument}")
        elif not equals and not rest:
            raise UsageError(f"flag needs an argument: {argument}")
        else:
            values[_VALUES[name]] = value if equals else rest.pop(0)
    return Flags(
        port=_choose_port(values),
        command=values.get("c") or values.get("command"),
        user=values.get("user"),
        token_file=values.get("token_file"),
        mcp=mcp,
        version=switches.get("version", False),
        help=switches.get("help", False),
        ignored=tuple(rest),
    )


def _choose_port(values: dict[str, str]) -> int:
    """`-p` wins unless it is the default, then `-port`."""
    short, long = _port("p", values), _port("port", values)
    return short if short != DEFAULT_PORT else long


def _port(name: str, values: dict[str, str]) -> int:
    text = values.get(name, str(DEFAULT_PORT))
    if text.isascii() and text.isdigit() and int(text) <= MAX_PORT:
        return int(text)
    raise UsageError(f'invalid value "{text}" for flag -{name}: a port is 0 to {MAX_PORT}')


def _truth(argument: str, text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise UsageError(f"invalid boolean value in {argument}")
