"""The content of small text files that changed.

Everything here blocks: run it on file threads.
"""

import os
from collections.abc import Iterable
from typing import Final

from sandbox_api.core.regular import open_regular
from sandbox_api.core.watch.events import CREATE, WRITE, Event
from sandbox_api.errors import SandboxError

MAX_TEXT_BYTES: Final = 64 << 10


def read_texts(events: Iterable[Event]) -> dict[Event, str]:
    """What is in the files of some events by now, as far as they are small texts.

    Args:
        events: of which CREATE and WRITE are looked at, each file once.
    """
    texts = {}
    for event in dict.fromkeys(event for event in events if event.op in {CREATE, WRITE}):
        text = _read_text(event.full_path)
        if text is not None:
            texts[event] = text
    return texts


def _read_text(path: str) -> str | None:
    try:
        fd, _ = open_regular(path, os.lstat(path))
    except (OSError, SandboxError):
        return None
    try:
        data = os.read(fd, MAX_TEXT_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(data) > MAX_TEXT_BYTES or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
