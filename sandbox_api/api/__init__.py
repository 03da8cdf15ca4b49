"""The HTTP edge: requests to values, values to replies. Knows nothing of the operating system.

The package of aiohttp imports its client, and that makes two TLS contexts with all CA certificates:
60 ms and 9 MB for a daemon that serves. So the package is entered without being run, and what is
needed of it is imported by the names of its modules; the client when it is first used (outgoing).
"""

import sys
from importlib.util import find_spec, module_from_spec

if "aiohttp" not in sys.modules and (_spec := find_spec("aiohttp")) is not None:
    sys.modules["aiohttp"] = _package = module_from_spec(_spec)
    _package.__version__ = "3"  # type: ignore[attr-defined]  # for a header that we never send
