"""Starts the daemon, as `python -m sandbox_api` does."""

import gc
import sys

import _bundle

gc.disable()  # what is imported stays
from sandbox_api.__main__ import main  # noqa: E402

gc.enable()
_bundle.release()
sys.exit(main())
