"""Progress of long work, on stderr: bars in a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS_BETWEEN_LINES = 30.0

Report = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is if that is known."""

Amount = Callable[[str, int, int | None], str]
"""The same as text."""


def counted(what: str, done: int, total: int | None) -> str:
    """`600 of 1000`, as far as the total is known."""
    return f"{done}" if total is None else f"{done} of {total}"


@contextmanager
def progress(action: str, total: int | None, done: int = 0, *, rate: bool = False) -> Iterator[Callable[[int], None]]:
    """Show the progress through many structures, and the time left, while the block runs.

    Args:
        action: what is being done, such as `predicting`.
        total: number of all structures; None if it is not known.
        done: number of structures that an earlier run has done.
        rate: whether to tell how many are done in a second.

    Yields:
        A function to call with the number of structures each time some are done.
    """

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(action, done, total)

    began, before = time.monotonic() if rate else 0.0, done

    def with_rate(what: str, done: int, total: int | None) -> str:
        seconds = max(time.monotonic() - began, 1e-3)
        return f"{counted(what, done, total)}, {(done - before) / seconds:.0f} a second"

    with progress_of_several(with_rate if rate else counted) as report:
        advance(0)
        yield advance


@contextmanager
def progress_of_several(amount: Amount = counted) -> Iterator[Report]:
    """Show how far several things have come, and the time left, while the block runs."""
    if not sys.stderr.isatty():
        yield _lines(amount)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    texts = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    console = Console(stderr=True)
    with Progress(*texts, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as bars:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, completed=done, amount="")
            bars.update(tasks[what], completed=done, total=total, amount=amount(what, done, total))

        yield report


def _lines(amount: Amount) -> Report:
    said: float | None = None
    began: dict[str, tuple[float, int]] = {}

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal said
        now = time.monotonic()
        said = now if said is None else said
        if what not in began or done <= began[what][1]:  # the beginning, or a download that starts again
            began[what] = now, done
        elif now - said >= SECONDS_BETWEEN_LINES:
            said, (start, before) = now, began[what]
            seconds = None if total is None else (now - start) / (done - before) * (total - done)
            left = "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"
            print(f"{what}: {amount(what, done, total)}{left}", file=sys.stderr, flush=True)

    return report
