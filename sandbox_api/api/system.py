"""Routes of the daemon itself: `/` and `/health` (spec/system.md 2)."""

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from sandbox_api import __version__, build
from sandbox_api.api.schemas.system import HealthReply, LastUpgrade, WelcomeReply
from sandbox_api.api.wire import SETTINGS, json_reply
from sandbox_api.log import timestamp

_PYTHON: Final = "python{}.{}.{}".format(*sys.version_info)
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

WELCOME: Final = WelcomeReply(
    message="Welcome to your Blaxel Sandbox",
    documentation="https://docs.blaxel.ai/Sandboxes/Overview",
    description=(
        "This sandbox provides a full-featured environment for running code securely. "
        "Visit the documentation to learn how to manage processes, access the filesystem, and more."
    ),
)


@dataclass(frozen=True, slots=True)
class Started:
    """When the daemon started: by the clock, and by a clock that nobody sets."""

    second: int = field(default_factory=lambda: int(time.time()))
    monotonic_s: float = field(default_factory=time.monotonic)


STARTED: web.AppKey[Started] = web.AppKey("started", Started)


def go_duration(seconds: float) -> str:
    """Whole seconds as clients of the reference know them: `1s`, `3m51s`, `1h30m0s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


async def welcome(_: web.Request) -> web.Response:
    """Say what this is; whatever was sent is ignored."""
    return json_reply(WELCOME)


async def health(request: web.Request) -> web.Response:
    """The daemon is up, and since when."""
    started = request.app[STARTED]
    uptime_s = time.monotonic() - started.monotonic_s
    machine = os.uname().machine
    reply = HealthReply(
        version=__version__,
        git_commit=build.COMMIT,
        build_time=build.TIME,
        go_version=_PYTHON,
        os="linux",
        arch=_ARCHITECTURES.get(machine, machine),
        uptime=go_duration(uptime_s),
        uptime_seconds=uptime_s,
        upgrade_count=request.app[SETTINGS].upgrade_count,
        started_at=timestamp(started.second),
        last_upgrade=LastUpgrade(),
    )
    return json_reply(reply)


ROUTES = (
    web.get("/", welcome, allow_head=True),
    web.post("/", welcome),
    web.put("/", welcome),
    web.delete("/", welcome),
    web.patch("/", welcome),
    web.get("/health", health, allow_head=True),
)
