"""The audit line: who did what, by the identity headers of the platform's edge.

The headers are told as they came and prove nothing: whoever reaches the daemon can set them
(spec/system.md 4 and 17).
"""

import logging
import uuid
from collections.abc import Mapping

from aiohttp import web

log = logging.getLogger("sandbox_api.audit")


def audit(request: web.Request, action: str, **extras: object) -> None:
    """Write one audit line.

    Args:
        request: whose identity headers are told.
        action: for example `process_exec`.
        extras: more keys; `_` in a name is written as `-`.
    """
    audit_headers(request.headers, action, **extras)


def audit_headers(headers: Mapping[str, str], action: str, **extras: object) -> None:
    """The same, where only the headers of a request are at hand."""
    who = {
        "sub-id": headers.get("X-Blaxel-Subject-Id") or headers.get("X-Subject-Id") or "",
        "sub-type": headers.get("X-Blaxel-Subject-Type") or headers.get("X-Subject-Type") or "",
        "auth-method": headers.get("X-Blaxel-Auth-Method", ""),
    }
    rid = headers.get("X-Request-Id") or str(uuid.uuid4())
    more = {name.replace("_", "-"): str(value) for name, value in sorted(extras.items())}
    known = {name: value for name, value in who.items() if value}
    shown = {"type": action, **known, "rid": rid, **more}
    message = " ".join(f"{name}={_quoted(value)}" for name, value in shown.items())
    fields = {**more, **who, "rid": rid, "action": action, "source": "audit"}
    log.info("%s", message, extra=fields)


def _quoted(value: str) -> str:
    if " " in value:
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value.replace("\r", "\\r").replace("\n", "\\n")
