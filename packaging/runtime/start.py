"""Starts the daemon, as `python -m sandbox_api` does."""

import gc
import sys

import _bundle

if sys.argv[0] == "output-holder":  # a small program of its own, which needs nothing of the rest
    exec(_bundle.code("sandbox_api.core.processes.holding"), {"__name__": "__main__"})

gc.disable()  # what is imported stays
from sandbox_api.__main__ import main  # noqa: E402

gc.enable()
_bundle.release()
sys.exit(main())
