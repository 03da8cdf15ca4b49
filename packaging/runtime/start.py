"""Starts the daemon, as `python -m sandbox_api` does."""

import gc
import sys

import _bundle

# Small programs of their own, which need little of the rest (`_program` in sandbox_api/__main__.py)
if sys.argv[0] == "output-holder":
    exec(_bundle.code("sandbox_api.core.processes.holding"), {"__name__": "__main__"})
if sys.argv[5:] == ["sandbox_api.core.searches.worker"]:
    from sandbox_api.core.searches.worker import main

    sys.exit(main())

gc.disable()  # what is imported stays
from sandbox_api.__main__ import main  # noqa: E402

gc.enable()
_bundle.release()
sys.exit(main())
