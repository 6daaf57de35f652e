"""The command line of facke."""

from __future__ import annotations

import os
import signal
import sys

__all__: list[str] = []

if (
    os.path.basename((getattr(sys, "argv", None) or [""])[0]) == "facke"
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # the script: Ctrl-C in its imports has nothing to unwind, and needs no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
