"""Observers of a training run: messages and progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from crystalformers.errors import ConfigError
from crystalformers.target import Target
from crystalformers.training.state import Progress


class Observer:
    """Hears messages and progress of a run, in its first process; every method does nothing unless overridden."""

    def message(self, text: str) -> None:
        """Lines worth reading: the data, the model, the final errors."""

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        """Training begins, or goes on after a resume."""

    def step(self, progress: Progress) -> None:
        """A batch is done, but for the last of an epoch."""

    def epoch(self, progress: Progress) -> None:
        """An epoch is done and validated; `progress.history[-1]` has its metrics."""

    def end(self) -> None:
        """Training is over, whether finished, interrupted or failed."""


def latest_errors(progress: Progress, targets: Sequence[Target]) -> str:
    """Validation errors of the last completed epoch, in words."""
    if not progress.history:
        return "no validation yet"
    row = progress.history[-1]
    errors = [f"{t.name} {row[f'val_mae_{t.name} ({t.unit})']:.4g} {t.unit}" for t in targets]
    return "val MAE " + ", ".join(errors)


class NotebookBar(Observer):
    """A bar with the latest validation errors in the output of a notebook cell: `fit(..., observer=NotebookBar())`.

    Raises:
        ConfigError: when training begins, if IPython is not installed.
    """

    SECONDS = 0.5
    """Shortest time between two updates within an epoch."""

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        """Show it, filled as far as a resumed run had come."""
        try:
            from IPython.display import HTML, display
        except ModuleNotFoundError as error:
            raise ConfigError("the bar is for notebooks, but IPython is not installed") from error
        self._targets, self._drawn = targets, time.monotonic()
        self._html: Any = HTML
        self._output: Any = display(HTML(self.text(progress)), display_id=True)

    def step(self, progress: Progress) -> None:
        """Move it on, if that was not just done."""
        if time.monotonic() - self._drawn >= self.SECONDS:
            self._draw(progress)

    def epoch(self, progress: Progress) -> None:
        """Show the new errors."""
        self._draw(progress)

    def text(self, progress: Progress) -> str:
        """The bar in HTML."""
        said = f"epoch {min(progress.epoch + 1, progress.epochs)} of {progress.epochs}"
        bar = f'<progress value="{progress.batches_done}" max="{progress.batches}"></progress>'
        return f"<div>{bar} {said}, {escape(latest_errors(progress, self._targets))}</div>"

    def _draw(self, progress: Progress) -> None:
        self._drawn = time.monotonic()
        if self._output is not None:  # outside a notebook nothing can be drawn again
            self._output.update(self._html(self.text(progress)))


class TensorBoard(Observer):
    """Writes the metrics of every epoch as TensorBoard event files.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        """Open the file; what an interrupted run wrote beyond its saved state is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=progress.epoch + 1)

    def epoch(self, progress: Progress) -> None:
        """Write one epoch."""
        row = progress.history[-1]
        for name, value in row.items():
            self._writer.add_scalar(name, value, int(row["epoch"]))

    def end(self) -> None:
        """Close the file."""
        self._writer.close()
