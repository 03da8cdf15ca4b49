"""Large files that come in several requests: multipart sessions, and single uploads that resume.

uploads.py      the sessions: who may do what when, expiry
session.py      one session, its parts, and where in a file each part lies
metadata.py     what of them survives the daemon
storage.py      part files: where they are made, written while they are hashed
part_writer.py  one part that is on its way
assembly.py     parts to the file
resuming.py     one file in one request after the other, each going on where the last ended
"""

from sandbox_api.core.uploads.resuming import Resuming, Span
from sandbox_api.core.uploads.session import Part, Session
from sandbox_api.core.uploads.uploads import Uploads

__all__ = ["Part", "Resuming", "Session", "Span", "Uploads"]
