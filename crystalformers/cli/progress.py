"""Progress through many structures, on stderr: a bar in a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(action: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress and the time left while the block runs.

    Args:
        action: what is being done, such as `predicting`.
        total: number of all structures; None if it is not known.
        done: number of structures that an earlier run has done.

    Yields:
        A function to call with the number of structures each time some are done.
    """
    if not sys.stderr.isatty():
        yield _lines(action, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counter = (TextColumn(action), BarColumn(), MofNCompleteColumn(), TextColumn("structures,"))
    console = Console(stderr=True)
    with Progress(*counter, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as bar:
        task = bar.add_task(action, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _lines(action: str, total: int | None, before: int) -> Callable[[int], None]:
    began = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said < SECONDS_BETWEEN_LINES or not done:
            return
        said, left = now, ""
        if total is not None:
            seconds = (now - began) / done * (total - before - done)
            left = f" of {total}, {timedelta(seconds=round(seconds))} left"
        print(f"{action}: {before + done}{left}", file=sys.stderr, flush=True)

    return advance
