"""SIGTERM ends a process as Ctrl-C does: by an exception, so that no temporary file is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

SECONDS_TO_SIGNAL_AGAIN = 0.05
"""By then the finaliser or callback that a signal came into has ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM."""

    signal = signal.SIGTERM


def raise_on_sigterm() -> None:
    """From now on SIGTERM, as a scheduler sends it, raises `Terminated`; none is lost in a finaliser or a callback."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _unraisable


def _terminate(*_: object) -> None:
    raise Terminated


def _unraisable(found: Any) -> None:
    """Send a signal again whose exception Python has dropped, since it came within a finaliser or a callback."""
    if not isinstance(found.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(found)
        return
    number = getattr(found.exc_value, "signal", signal.SIGINT)
    again = threading.Timer(SECONDS_TO_SIGNAL_AGAIN, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
