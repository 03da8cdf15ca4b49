"""Watching directories: what changes in them, as a stream of events.

`watches` owns all watches, `tree` is one through the kernel and `polling` one that looks again and
again. `inotify` is the one reader of the kernel's events (`raw`), `scan` goes into directories,
`directory` is one of them, `followed` all of one watch. `history` keeps recent events, with readers
as cursors; `texts` is the content of what changed.
"""

from sandbox_api.core.watch.events import Event
from sandbox_api.core.watch.history import READ_EVENTS, NumberedEvent, Reader
from sandbox_api.core.watch.spec import WatchSpec
from sandbox_api.core.watch.watches import Watches

__all__ = ["READ_EVENTS", "Event", "NumberedEvent", "Reader", "WatchSpec", "Watches"]
