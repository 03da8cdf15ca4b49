"""Starts the daemon, as `python -m sandbox_api` does."""

import gc
import sys

gc.disable()  # what is imported stays
from sandbox_api.__main__ import main  # noqa: E402

gc.enable()
sys.exit(main())
