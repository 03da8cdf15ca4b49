"""Shell patterns on names: `*`, `?`, `[a-z]`, `[^a]` and `\\x` (spec/filesystem.md 9)."""

import re
from collections.abc import Sequence

_PIECE = re.compile(r"(\*+)|\?|\[(\^?)((?:\\.|[^\\\]])+)\]|\\(.)|[^\\\[]", re.DOTALL)
_MEMBER = re.compile(r"\\(.)|(.)", re.DOTALL)


def compile_patterns(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """What a base name must fully match to fit any of the patterns; None where there are none.

    Args:
        patterns: each for a whole name, case-sensitive. A malformed one fits nothing.
    """
    if not patterns:
        return None
    sources = filter(None, map(_translate, patterns))
    return re.compile("|".join(sources) or "(?!)", re.DOTALL)


def _translate(pattern: str) -> str:
    """One pattern as a regular expression; empty where it is malformed."""
    parts, position = [""], 0
    while position < len(pattern):
        match = _PIECE.match(pattern, position)
        if match is None:
            return ""
        if match[1]:
            parts.append("")
        else:
            parts[-1] += _one_character(match)
        position = match.end()
    source = _join(parts)
    try:
        re.compile(source)
    except re.error:  # such as [z-a]
        return ""
    return source


def _join(parts: list[str]) -> str:
    """The parts with a star between each two.

    What a star took for a part in the middle is never reconsidered: the first place is as good as
    any later one, and without that a name could take exponential time.
    """
    first, *middle = parts
    if not middle:
        return first or "(?:)"
    last = middle.pop()
    return first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}"


def _one_character(match: re.Match[str]) -> str:
    if match[3]:
        return f"[{match[2]}{''.join(map(_member, _MEMBER.finditer(match[3])))}]"
    if match[0] == "?":
        return "."
    return re.escape(match[4] or match[0])


def _member(match: re.Match[str]) -> str:
    return "-" if match[2] == "-" else re.escape(match[1] or match[2])
