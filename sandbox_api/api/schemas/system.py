"""Wire models of the daemon itself: welcome and health (spec/system.md 2)."""

from typing import Literal

from sandbox_api.api.schemas.base import WireModel


class WelcomeReply(WireModel):
    """What a caller of `/` is told."""

    message: str
    documentation: str
    description: str


class LastUpgrade(WireModel):
    """How the last upgrade went."""

    status: Literal["idle", "running", "failed", "completed"] = "idle"
    step: Literal["none", "starting", "download", "validate", "replace", "completed", "skipped"] = (
        "none"
    )
    version: str = ""


class HealthReply(WireModel):
    """The daemon is up. SDK models need every key (spec/system.md 16)."""

    status: Literal["ok"] = "ok"
    version: str
    git_commit: str
    build_time: str
    go_version: str
    os: str
    arch: str
    uptime: str
    uptime_seconds: float
    upgrade_count: int
    started_at: str
    last_upgrade: LastUpgrade
