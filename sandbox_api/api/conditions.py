"""If-Match and If-None-Match of requests that change something (RFC 9110 section 13.1)."""

import re

from aiohttp import web

from sandbox_api.core.conditions import ANY, Condition
from sandbox_api.errors import InvalidError

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\uffff]*)"')
_TAGS = re.compile(rf"\s*(?:{_TAG.pattern})(?:\s*,\s*(?:{_TAG.pattern}))*\s*")


def wanted_condition(request: web.Request) -> Condition:
    """What must hold of a file for the request to change it.

    Raises:
        InvalidError: a header that says nothing; to ignore it would overwrite what it protects.
    """
    return Condition(
        match=_versions(request, "If-Match", weak=False),
        none_match=_versions(request, "If-None-Match", weak=True),
    )


def _versions(request: web.Request, name: str, *, weak: bool) -> frozenset[str] | None:
    """The ETags of a header; a weak one never matches where `weak` is not set."""
    fields = request.headers.getall(name, None)
    if fields is None:
        return None
    text = ", ".join(fields)
    if text.strip() == ANY:
        return frozenset({ANY})
    if not _TAGS.fullmatch(text):
        raise InvalidError(
            f"invalid {name} '{text:.200}': ETags in double quotes with commas between them, or * "
            "is expected"
        )
    return frozenset(tag for is_weak, tag in _TAG.findall(text) if weak or not is_weak)
