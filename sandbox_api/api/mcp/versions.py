"""The versions of the protocol, and what differs between them.

Until 2025-11-25 a connection begins with `initialize`. From 2026-07-28 on there are no sessions:
each request says in `_meta` which version it speaks, repeats in headers what proxies want to know,
and is cancelled by closing its connection.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from sandbox_api import __version__
from sandbox_api.api.mcp.jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    UNSUPPORTED_VERSION,
    Request,
    RpcError,
)

MODERN: Final = "2026-07-28"
LATEST_WITH_HANDSHAKE: Final = "2025-11-25"
FIRST_WITHOUT_BATCHES: Final = "2025-06-18"
ASSUMED: Final = "2025-03-26"
SUPPORTED: Final = (MODERN, LATEST_WITH_HANDSHAKE, FIRST_WITHOUT_BATCHES, ASSUMED, "2024-11-05")

LOG_LEVELS: Final = (
    *("debug", "info", "notice", "warning"),
    *("error", "critical", "alert", "emergency"),
)
VERSION_HEADER: Final = "Mcp-Protocol-Version"
SERVER_INFO: Final[Mapping[str, str]] = {"name": "Sandbox API Server", "version": __version__}

_META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
_META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
_META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
_NAMED: Final[Mapping[str, str]] = {"tools/call": "name", "resources/read": "uri"}
_ENCODED = re.compile(r"=\?base64\?(.*)\?=")


def negotiate(wanted: object) -> str:
    """The version that `initialize` agrees on."""
    if isinstance(wanted, str) and wanted in SUPPORTED and wanted != MODERN:
        return wanted
    return LATEST_WITH_HANDSHAKE


def check_header(version: str | None) -> None:
    """Refuse a version that nobody ever spoke; later ones are refused by `check_modern`.

    Raises:
        RpcError: unknown, and before 2026-07-28.
    """
    if version is not None and version not in SUPPORTED and version < MODERN:
        raise RpcError(
            UNSUPPORTED_VERSION,
            f"Bad Request: Unsupported protocol version (supported versions: "
            f"{','.join(SUPPORTED)})",
            {"supported": list(SUPPORTED), "requested": version},
        )


def is_modern(version: str | None, request: Request) -> bool:
    """Whether a request is of the kind without sessions."""
    return (version is not None and version >= MODERN) or _META_VERSION in request.meta


def told_version(request: Request) -> str | None:
    """The version that a request of the kind without sessions says it speaks."""
    told = request.meta.get(_META_VERSION)
    return told if isinstance(told, str) else None


def asked_log_level(request: Request) -> str | None:
    """The least level of log that such a request wants to be told of; None for nothing."""
    level = request.meta.get(_META_LOG_LEVEL)
    return level if isinstance(level, str) and level in LOG_LEVELS else None


def check_modern(headers: Mapping[str, str], request: Request) -> None:
    """Hold the headers and `_meta` of a request without session against each other.

    Raises:
        RpcError: one is missing, they differ, or the version is not supported.
    """
    version, told = headers.get(VERSION_HEADER), told_version(request)
    if version is None:
        raise RpcError(
            HEADER_MISMATCH,
            f'{VERSION_HEADER} header is required for requests carrying "{_META_VERSION}"',
        )
    if told is None:
        raise RpcError(INVALID_PARAMS, f'missing or invalid _meta field "{_META_VERSION}"')
    if told != version:
        raise RpcError(
            HEADER_MISMATCH, f"{VERSION_HEADER} header {version!r:.40} is not _meta's {told!r:.40}"
        )
    if version != MODERN:
        raise RpcError(
            UNSUPPORTED_VERSION,
            "unsupported protocol version",
            {"supported": list(SUPPORTED), "requested": version},
        )
    _check_same(headers, "Mcp-Method", request, request.method)
    if (key := _NAMED.get(request.method)) is not None:
        _check_same(headers, "Mcp-Name", request, request.params.get(key))


def _check_same(headers: Mapping[str, str], name: str, request: Request, wanted: object) -> None:
    found = headers.get(name)
    if found is None:
        suffix = "" if name == "Mcp-Method" else f' for method "{request.method}"'
        raise RpcError(HEADER_MISMATCH, f"missing required {name} header{suffix}")
    if _decoded(found) != wanted:
        raise RpcError(HEADER_MISMATCH, f"{name} header {found!r:.100} is not what the body says")


def _decoded(value: str) -> str | None:
    """A header's value; what is no plain ASCII comes as `=?base64?…?=`."""
    match = _ENCODED.fullmatch(value)
    if match is None:
        return value
    try:
        return base64.b64decode(match[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def stamp(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with what every result has from 2026-07-28 on."""
    meta = {**result.get("_meta", {}), _META_SERVER: SERVER_INFO}
    return {"resultType": "complete", **result, "_meta": meta}
