"""Signals that end a run: they are obeyed between two steps, once the state is saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_OF_ONE_SIGNAL = 3.0
"""A signal that is repeated within this time is the same one (`timeout` and process groups send it twice)."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT (Ctrl-C) or SIGTERM ended a run, which `fit(..., resume=True)` continues from its saved state.

    Like `KeyboardInterrupt` no `Exception`: a program that goes on after a failed run still stops.

    Attributes:
        signal: which one.
    """

    def __init__(self, number: int, saved: str = "the state is saved") -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}; {saved}")


class Signals:
    """Remembers the first SIGINT or SIGTERM; another one, seconds later, raises at once.

    Attributes:
        received: number of the signal; 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._time = 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._time = number, time.monotonic()
        elif time.monotonic() - self._time > SECONDS_OF_ONE_SIGNAL:
            raise TrainingInterrupted(number, "steps since the last saved state are lost")

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take over both signals inside the block; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
