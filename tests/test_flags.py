"""The command line as existing entrypoints spell it."""

import pytest

from sandbox_api.flags import Flags, UsageError, parse_flags


@pytest.mark.parametrize(
    ("arguments", "port"),
    [
        ([], 8080),
        (["-p", "3000"], 3000),
        (["-port", "3000"], 3000),
        (["--port", "3000"], 3000),
        (["--p=3000"], 3000),
        (["-port=3000"], 3000),
        (["-p", "3000", "-port", "4000"], 3000),
        (["-p", "8080", "-port", "4000"], 4000),
        (["-port", "4000", "-port", "5000"], 5000),
        (["-p", "0"], 0),
    ],
)
def test_ports(arguments: list[str], port: int) -> None:
    """One dash or two, with `=` or without; `-p` wins unless it is the default."""
    assert parse_flags(arguments).port == port


def test_all_flags_together() -> None:
    """As an image's entrypoint has them; a value may begin with a dash."""
    line = ["-c", "-x 'a b'", "--user=nobody:nogroup", "-disable-telemetry", "--token-file", "/t"]
    assert parse_flags(line) == Flags(
        port=8080, command="-x 'a b'", user="nobody:nogroup", token_file="/t"
    )


def test_the_short_command_wins_unless_it_is_empty() -> None:
    """As in the reference."""
    assert parse_flags(["-c", "a", "-command", "b"]).command == "a"
    assert parse_flags(["-c", "", "--command", "b"]).command == "b"


@pytest.mark.parametrize("flag", ["-h", "--help", "-help"])
def test_help(flag: str) -> None:
    """Asked for by any of its names."""
    assert parse_flags([flag]).help


@pytest.mark.parametrize("arguments", [["-disable-telemetry=false"], ["-version=0"]])
def test_switches_take_a_value_with_equals(arguments: list[str]) -> None:
    """As Go's flag package reads them."""
    assert parse_flags(arguments) == Flags(port=8080)


@pytest.mark.parametrize("arguments", [["serve", "-p", "1"], ["--", "serve", "-p", "1"]])
def test_what_follows_the_flags_is_told(arguments: list[str]) -> None:
    """It is ignored, as in the reference, but not silently."""
    flags = parse_flags(arguments)
    assert flags.port == 8080
    assert flags.ignored == ("serve", "-p", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-pory", "1"], "-pory"),
        (["-p3000"], "-p3000"),
        (["---port", "1"], "---port"),
        (["-p"], "needs an argument"),
        (["-p", "x"], '"x"'),
        (["-p", "-1"], '"-1"'),
        (["-p", "65536"], '"65536"'),
        (["-port="], '""'),
        (["-p", "٣"], "invalid value"),
        (["-disable-telemetry=maybe"], "maybe"),
        (["-commando", "true"], "-commando"),
    ],
)
def test_mistakes_are_named(arguments: list[str], said: str) -> None:
    """No abbreviation, no guess."""
    with pytest.raises(UsageError, match=said):
        parse_flags(arguments)


def test_mcp_comes_first() -> None:
    """Then the flags that hold for it too; elsewhere it is no word of ours."""
    flags = parse_flags(["mcp", "-user", "app"])
    assert (flags.mcp, flags.user, flags.ignored) == (True, "app", ())
    assert not parse_flags([]).mcp
    assert parse_flags(["-user", "app", "mcp"]).ignored == ("mcp",)
