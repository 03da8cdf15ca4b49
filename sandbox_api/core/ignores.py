"""What a repository's `.gitignore` files leave out (gitignore(5)).

A library would do, but those that there are translate a pattern into an expression that may take
exponential time on a name, and a search must not hang on a file that it finds.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sandbox_api.core.patterns import translate_name, translate_path
from sandbox_api.core.regular import READ_FLAGS

IGNORE_FILE = ".gitignore"
MAX_BYTES = 256 * 1024  # of one file; what is beyond is not read
MOST_RULES = 1000

_TRAILING_SPACES = re.compile(r"(?<!\\) +$")


@dataclass(frozen=True, slots=True)
class _Rule:
    fits: re.Pattern[str]
    whole_path: bool
    directories_only: bool
    ignored: bool


class Ignores:
    """The rules that hold in a directory: its own file's, then those of what it lies in.

    Args:
        directory: absolute.
        lines: of its file.
        above: the rules of the directory above, or None.

    Attributes:
        levels: from the innermost directory on, where paths relative to it begin, and its rules.
    """

    def __init__(self, directory: str, lines: Iterable[str], above: "Ignores | None") -> None:
        rules = [rule for line in lines if (rule := _parse(line)) is not None][:MOST_RULES]
        rules.reverse()  # of several the last one decides
        outer = () if above is None else above.levels
        self.levels: Sequence[tuple[int, list[_Rule]]] = (
            (len(directory.rstrip("/")) + 1, rules),
            *outer,
        )

    def ignore(self, path: str, name: str, is_directory: bool) -> bool:
        """Whether something is left out; what lies in an ignored directory is not asked for.

        Args:
            path: absolute; in this directory, or below it.
            name: its base name.
            is_directory: whether it is one.
        """
        for cut, rules in self.levels:
            relative = path[cut:]
            for rule in rules:
                text = relative if rule.whole_path else name
                if (is_directory or not rule.directories_only) and rule.fits.fullmatch(text):
                    return rule.ignored
        return False


def ignores_of(directory: str, above: Ignores | None) -> Ignores | None:
    """The rules that hold in a directory.

    Args:
        directory: absolute.
        above: the rules of the directory above, or None.
    """
    lines = _read_lines(posixpath.join(directory, IGNORE_FILE))
    return Ignores(directory, lines, above) if lines else above


def ignores_above(directory: str) -> Ignores | None:
    """The rules that a directory has from the repository it lies in; None where it is its root.

    Args:
        directory: absolute.
    """
    chain = [directory]
    while not os.path.lexists(posixpath.join(chain[-1], ".git")):
        if chain[-1] == "/":
            return None
        chain.append(posixpath.dirname(chain[-1]))
    root = chain[-1]
    exclude = _read_lines(posixpath.join(root, ".git/info/exclude"))
    rules = Ignores(root, exclude, None) if exclude else None
    for one in reversed(chain[1:]):
        rules = ignores_of(one, rules)
    return rules


def _read_lines(path: str) -> list[str]:
    """The lines of a file; none where it is no regular file or cannot be read."""
    try:
        fd = os.open(path, READ_FLAGS | os.O_NOFOLLOW)
        try:
            data = os.read(fd, MAX_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return []
    return os.fsdecode(data).split("\n")


def _parse(line: str) -> _Rule | None:
    """One line as a rule; None where it is none."""
    text = _TRAILING_SPACES.sub("", line.removesuffix("\r"))
    if not text or text[0] == "#":
        return None
    ignored = text[0] != "!"
    text = text if ignored else text[1:]
    directories_only = text.endswith("/")
    text = text.rstrip("/")
    whole_path = "/" in text
    source = (translate_path if whole_path else translate_name)(text) if text else ""
    if not source:
        return None
    return _Rule(re.compile(source, re.DOTALL), whole_path, directories_only, ignored)
