"""Observers of a training run: messages and progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
