"""How far a verb has come through many structures, on stderr: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(verb: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show progress and the time left while the block runs; what it yields is told of every n structures done.

    Args:
        verb: what is being done.
        total: structures in all; None where nobody knows.
        done: structures that an earlier run has done.
    """
    if not sys.stderr.isatty():
        yield _lines(verb, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counter = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("structures,"))
    console = Console(stderr=True)
    with Progress(*counter, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as bar:
        task = bar.add_task(verb, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _lines(verb: str, total: int | None, before: int) -> Callable[[int], None]:
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
        print(f"{verb}: {before + done}{left}", file=sys.stderr, flush=True)

    return advance
