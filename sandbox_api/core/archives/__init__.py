"""Whole directories as tar streams, in constant memory.

`packing` makes an archive, `parsing` takes one apart as it arrives, `unpacking` writes what is in
it, `archives` owns both directions.
"""

from sandbox_api.core.archives.archives import Archives, Unpacked

__all__ = ["Archives", "Unpacked"]
