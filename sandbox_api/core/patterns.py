"""Shell patterns on names and paths (spec/filesystem.md 9).

`*`, `?`, `[a-z]`, `[^a]` and `\\x` mean what they mean in a shell and never stand for a `/`.
`{a,b}` is either. A pattern without a `/` is one for base names; with one it is for the whole path
below the directory where a search begins, and `**` as a segment is any number of directories. What
a pattern takes for a match is found in linear time: nobody can hold up a search with one.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from sandbox_api.errors import InvalidError

MOST_PATTERNS = 1000  # in one list, with all that its braces stand for
MAX_CHARACTERS = 64 * 1024  # of all these together

_PIECE = re.compile(
    r"(\*+)|\?|\[([\^!]?)((?:\\.|[^\\\]])+)\]|\\(.)|[^\\\[]",  # nothing else is well-formed
    re.DOTALL,
)
_MEMBER = re.compile(r"\\(.)|(.)", re.DOTALL)
_BRACE = re.compile(r"\\.|[{},]", re.DOTALL)


class Patterns:
    """Patterns of which a file must fit one.

    Args:
        patterns: case-sensitive; a malformed one fits nothing.

    Raises:
        InvalidError: they are too many, or too long.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        wanted = _expand_braces(patterns)
        self._names = _compile(translate_name(one) for one in wanted if "/" not in one)
        self._paths = _compile(translate_path(one) for one in wanted if "/" in one)

    def fit(self, name: str, path: str) -> bool:
        """Whether a file fits.

        Args:
            name: its base name.
            path: relative to where the search began.
        """
        if self._names is not None and self._names.fullmatch(name):
            return True
        return self._paths is not None and self._paths.fullmatch(path) is not None


def compile_patterns(patterns: Sequence[str]) -> Patterns | None:
    """Patterns, or None where there are none: all files are wanted."""
    return Patterns(patterns) if patterns else None


def split_patterns(text: str) -> tuple[str, ...]:
    """A list with commas, each item trimmed; a comma within braces separates nothing."""
    closed = _closed_braces(text)
    items, begin, within = [], 0, -1
    for match in _BRACE.finditer(text):
        place = match.start()
        if match[0] == "{":
            within = max(within, closed.get(place, -1))
        elif match[0] == "," and place > within:
            items.append(text[begin:place])
            begin = place + 1
    items.append(text[begin:])
    return tuple(item for item in map(str.strip, items) if item)


def _closed_braces(text: str) -> dict[int, int]:
    """Where each brace that is closed opens and closes."""
    opened: list[int] = []
    closed = {}
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closed[opened.pop()] = match.start()
    return closed


def _expand_braces(patterns: Sequence[str]) -> list[str]:
    """The patterns that braces stand for; braces that do not close or hold no comma are plain."""
    done: list[str] = []
    pending = [("", pattern) for pattern in reversed(patterns)]
    characters = 0
    while pending:
        head, rest = pending.pop()
        if (choice := _first_choice(rest)) is None:
            done.append(head + rest)
            characters += len(done[-1])
        else:
            before, alternatives, after = choice
            pending += [(head + before, one + after) for one in reversed(alternatives)]
        if len(done) + len(pending) > MOST_PATTERNS or characters > MAX_CHARACTERS:
            raise InvalidError(
                f"invalid patterns: there are more than {MOST_PATTERNS}, or {MAX_CHARACTERS} "
                "characters, counting all that braces stand for; send fewer"
            )
    return done


def _first_choice(text: str) -> tuple[str, list[str], str] | None:
    """The text before the first braces that are a choice, what they hold, and the text behind."""
    starts: list[tuple[int, list[int]]] = []  # of each open brace: its place and its commas
    found: tuple[int, list[int], int] | None = None
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            starts.append((match.start(), []))
        elif match[0] == "," and starts:
            starts[-1][1].append(match.start())
        elif match[0] == "}" and starts:
            begin, commas = starts.pop()
            if commas and (found is None or begin < found[0]):
                found = begin, commas, match.start()
    if found is None:
        return None
    begin, commas, end = found
    edges = [begin, *commas, end]
    parts = [text[a + 1 : b] for a, b in pairwise(edges)]
    return text[:begin], parts, text[end + 1 :]


def _compile(sources: Iterable[str]) -> re.Pattern[str] | None:
    """What fits one of them; None where none is well-formed."""
    alternatives = "|".join(filter(None, sources))
    return re.compile(alternatives, re.DOTALL) if alternatives else None


def translate_name(pattern: str) -> str:
    """A pattern for a name as a regular expression; empty where it is malformed."""
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
    source = _join_stars(parts)
    try:
        re.compile(source)
    except re.error:  # such as [z-a]
        return ""
    return source


def translate_path(pattern: str) -> str:
    """A pattern for a whole path as a regular expression; empty where it is malformed."""
    groups: list[list[str]] = [[]]
    for segment in pattern.split("/"):
        if segment in {"", "."}:
            continue
        if segment == "**":
            groups.append([])
        elif source := translate_name(segment):
            groups[-1].append(source)
        else:
            return ""
    return _join_groups(["/".join(group) for group in groups])


def _join_groups(groups: list[str]) -> str:
    """Runs of segments with any number of directories between each two.

    As with stars within a name: where the first place fits, no later one has to be tried.
    """
    first, *middle = groups
    if not middle:
        return first
    last = middle.pop() or "[^/]+"  # what ends in `**` is everything below
    begin = f"{first}/" if first else ""
    between = "".join(f"(?>(?:[^/]+/)*?{group}/)" for group in middle if group)
    return f"{begin}{between}(?:[^/]+/)*{last}"


def _join_stars(parts: list[str]) -> str:
    """The parts with a star between each two.

    What a star took for a part in the middle is never reconsidered: the first place is as good as
    any later one, and without that a name could take exponential time.
    """
    first, *middle = parts
    if not middle:
        return first or "(?:)"
    last = middle.pop()
    return first + "".join(f"(?>[^/]*?{part})" for part in middle) + f"[^/]*{last}"


def _one_character(match: re.Match[str]) -> str:
    if match[3]:
        negated = "^" if match[2] else ""
        return f"(?!/)[{negated}{''.join(map(_member, _MEMBER.finditer(match[3])))}]"
    if match[0] == "?":
        return "[^/]"
    return re.escape(match[4] or match[0])


def _member(match: re.Match[str]) -> str:
    return "-" if match[2] == "-" else re.escape(match[1] or match[2])
