"""What stands in a query: flags, numbers and lists of names."""

import re

from aiohttp import web

from sandbox_api.core.patterns import split_patterns
from sandbox_api.errors import InvalidError

_NUMBER = re.compile("[0-9]{1,18}", re.ASCII)


def flag(request: web.Request, name: str) -> bool:
    """Whether a parameter is exactly `true`."""
    return request.query.get(name) == "true"


def number(request: web.Request, name: str, default: int, minimum: int = 0) -> int:
    """A whole number.

    Args:
        request: the request.
        name: of the parameter.
        default: where it is absent or empty.
        minimum: the least that is taken.

    Raises:
        InvalidError: it is no number, or less than that.
    """
    text = request.query.get(name, "")
    if not text:
        return default
    if not _NUMBER.fullmatch(text) or int(text) < minimum:
        raise InvalidError(f"invalid {name}: '{text:.40}' is no whole number of at least {minimum}")
    return int(text)


def names(request: web.Request, name: str) -> tuple[str, ...]:
    """A list with commas, each item trimmed; empty ones do not count."""
    items = (item.strip() for item in request.query.get(name, "").split(","))
    return tuple(item for item in items if item)


def patterns(request: web.Request, name: str = "patterns") -> tuple[str, ...]:
    """A list as above, of shell patterns; a comma within braces belongs to its pattern."""
    return split_patterns(request.query.get(name, ""))


def limit(request: web.Request, default: int, most: int = 1000) -> int:
    """How many matches a search returns at most: `maxResults`; 0 is no limit.

    Args:
        request: the request.
        default: where it is absent or empty.
        most: what more than that becomes.

    Raises:
        InvalidError: it is no number, or negative.
    """
    return min(number(request, "maxResults", default), most)


def encoding(request: web.Request) -> str:
    """How JSON is to hold the content of files.

    Raises:
        InvalidError: neither `utf-8` nor `base64`.
    """
    text = request.query.get("encoding", "utf-8")
    if text not in {"utf-8", "base64"}:
        raise InvalidError(f"invalid encoding '{text:.40}': utf-8 or base64 is expected")
    return text
