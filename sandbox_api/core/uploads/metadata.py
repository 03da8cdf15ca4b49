"""What of upload sessions survives the daemon: a private directory for each session.

It holds a small file for the session and one for each part, each replaced by rename: a reader sees
the old or the new one, and a part costs the same however many there are. Nothing is synced: a crash
of the daemon loses nothing, a loss of power may.

Everything here blocks, and acts as the daemon itself.
"""

import json
import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox_api.core.uploads.session import Part, Place, Session

log = logging.getLogger(__name__)

_SESSION = "session"


class Metadata:
    """The sessions on disk.

    Args:
        directory: private; None where nothing can be kept.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def save_session(self, session: Session) -> None:
        """Write what is known of a session but for its parts.

        Raises:
            OSError: the disk is full, or the like.
        """
        if self._directory is not None:
            own = self._directory / session.id
            self._directory.mkdir(mode=0o700, exist_ok=True)
            own.mkdir(mode=0o700, exist_ok=True)
            values = {
                "path": session.path,
                "mode": session.mode,
                "initiatedAt": session.initiated_at_ns,
                "slotBytes": session.slot_bytes,
                "body": session.body and _place_values(session.body),
            }
            try:
                _replace(own / _SESSION, values)
            except OSError:
                with suppress(OSError):
                    own.rmdir()  # of a session that is not to be
                raise

    def save_part(self, session: Session, part: Part) -> None:
        """Write a part, in place of an older one of its number.

        Raises:
            OSError: the disk is full, or the like.
        """
        if self._directory is not None:
            values = {
                "etag": part.etag,
                "size": part.size,
                "uploadedAt": part.uploaded_at_ns,
                "place": _place_values(part.place),
            }
            _replace(self._directory / session.id / str(part.number), values)

    def forget_part(self, session: Session, part: Part) -> None:
        """Remove a part."""
        if self._directory is not None:
            (self._directory / session.id / str(part.number)).unlink(missing_ok=True)

    def forget(self, session: Session) -> None:
        """Remove a session, as far as possible."""
        if self._directory is not None:
            shutil.rmtree(self._directory / session.id, ignore_errors=True)

    def load(self, max_age_s: float) -> list[Session]:
        """All sessions; one that cannot be read is told.

        Args:
            max_age_s: seconds after which what cannot be read is removed; 0 is never.
        """
        sessions: list[Session] = []
        if self._directory is None or not self._directory.is_dir():
            return sessions
        for own in self._directory.iterdir():
            try:
                sessions.append(_load(own))
            except (OSError, ValueError, KeyError, TypeError) as exc:
                log.warning("upload session %s is not readable: %r", own.name, exc)
                if max_age_s and own.stat().st_mtime + max_age_s < time.time():
                    shutil.rmtree(own, ignore_errors=True)
        return sessions


def _load(own: Path) -> Session:
    values = _read(own / _SESSION)
    session = Session(
        id=own.name,
        path=str(values["path"]),
        mode=int(values["mode"]),
        initiated_at_ns=int(values["initiatedAt"]),
        slot_bytes=int(values["slotBytes"]),
        body=_place(values["body"]) if values["body"] else None,
        restored=True,
    )
    for path in own.iterdir():
        if path.name.isdecimal():
            part = _part(int(path.name), _read(path))
            session.parts[part.number] = part
    return session


def _part(number: int, values: dict[str, Any]) -> Part:
    place = _place(values["place"])
    return Part(number, str(values["etag"]), int(values["size"]), int(values["uploadedAt"]), place)


def _place_values(place: Place) -> dict[str, object]:
    return {name: getattr(place, name) for name in Place.__dataclass_fields__}


def _place(values: dict[str, Any]) -> Place:
    return Place(
        path=str(values["path"]),
        private=bool(values["private"]),
        offset=int(values["offset"]),
        shared=bool(values["shared"]),
    )


def _read(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict):
        raise TypeError(f"{path.name} holds no object")
    return values


def _replace(path: Path, values: dict[str, object]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
        json.dump(values, file)  # ASCII: names that are not UTF-8 are kept as they are
    temporary.rename(path)
