"""What the command line shows of a training run, on stderr: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from crystalformers.cli.progress import SECONDS_BETWEEN_LINES
from crystalformers.training.observer import Observer, latest_errors

if TYPE_CHECKING:
    from crystalformers.target import Target
    from crystalformers.training.state import Progress


def terminal_observer() -> Observer:
    """A bar where standard error is a terminal, lines where it is not."""
    return Bar() if sys.stderr.isatty() else Lines()


class Messages(Observer):
    """Prints messages; knows how to tell the latest errors."""

    def message(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        """Remember what is learned."""
        self._targets = targets

    def latest(self, progress: Progress) -> str:
        """Errors of the last completed epoch."""
        return latest_errors(progress, self._targets)


class Bar(Messages):
    """One bar over the whole run."""

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        """Draw it, filled as far as a resumed run had come."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        super().begin(progress, targets)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.1f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
            console=Console(stderr=True),
            refresh_per_second=2,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("", total=progress.batches, latest=self.latest(progress))
        self._bar.start()
        self.step(progress)

    def step(self, progress: Progress) -> None:
        """Move it on."""
        self._bar.update(
            self._task,
            completed=progress.batches_done,
            description=f"epoch {min(progress.epoch + 1, progress.epochs)}/{progress.epochs}",
            latest=self.latest(progress),
        )

    def epoch(self, progress: Progress) -> None:
        """Show the new errors."""
        self.step(progress)

    def end(self) -> None:
        """Leave the terminal in order."""
        self._bar.stop()


class Lines(Messages):
    """A line now and then."""

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        """Remember where and when this process began."""
        super().begin(progress, targets)
        self._began = self._said = time.monotonic()
        self._first = progress.batches_done

    def step(self, progress: Progress) -> None:
        """Say something if the last line is old."""
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._say(progress, progress.epoch + 1, f"batch {progress.batch}/{progress.batches_per_epoch}")

    def epoch(self, progress: Progress) -> None:
        """Report the errors, unless epochs fly past; always those of the last."""
        if progress.finished or time.monotonic() - self._said >= SECONDS_BETWEEN_LINES / 10:
            self._say(progress, progress.epoch, self.latest(progress))

    def _say(self, progress: Progress, epoch: int, news: str) -> None:
        self._said = time.monotonic()
        done = progress.batches_done
        left = (self._said - self._began) / max(done - self._first, 1) * (progress.batches - done)
        self.message(f"epoch {epoch}/{progress.epochs}  {news}  left {timedelta(seconds=round(left))}")
