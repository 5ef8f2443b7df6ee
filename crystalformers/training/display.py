"""How far training is: a bar with the time left in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crystalformers.training.module import TrainingModule

SECONDS_BETWEEN_LINES = 30.0


def display() -> Callback:
    """A bar where standard error is a terminal, lines where it is not."""
    return Bar() if sys.stderr.isatty() else Lines()


def latest(module: TrainingModule) -> str:
    """Errors of the last completed epoch."""
    history = module.progress.history
    if not history:
        return "no validation yet"
    errors = [
        f"{target.name} {history[-1][f'val_mae_{target.name} ({target.unit})']:.4g} {target.unit}"
        for target in module.batches.dataset.targets
    ]
    return "val MAE " + ", ".join(errors)


class Bar(Callback):
    """One bar over the whole run."""

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Draw it, filled as far as a resumed run had come."""
        self._bar = Progress(
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
        total = module.recipe.epochs * module.batches.per_epoch
        self._task = self._bar.add_task("", total=total, latest=latest(module))
        self._bar.start()
        self._show(module)

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, *args: Any) -> None:  # type: ignore[override]
        """Move it on."""
        self._show(module)

    def on_train_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Show the new errors."""
        self._show(module)

    def teardown(self, trainer: Trainer, module: TrainingModule, stage: str) -> None:  # type: ignore[override]
        """Leave the terminal in order."""
        if hasattr(self, "_bar"):
            self._bar.stop()

    def on_exception(self, trainer: Trainer, module: TrainingModule, error: BaseException) -> None:  # type: ignore[override]
        """The same when a run is interrupted."""
        self.teardown(trainer, module, "fit")

    def _show(self, module: TrainingModule) -> None:
        progress, recipe = module.progress, module.recipe
        self._bar.update(
            self._task,
            completed=progress.epoch * module.batches.per_epoch + progress.batch,
            description=f"epoch {min(progress.epoch + 1, recipe.epochs)}/{recipe.epochs}",
            latest=latest(module),
        )


class Lines(Callback):
    """A line now and then."""

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Remember where and when this process began."""
        self._began = self._said = time.monotonic()
        self._first = self._done(module)

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, *args: Any) -> None:  # type: ignore[override]
        """Say something if the last line is old."""
        if time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            progress = module.progress
            self._say(module, f"batch {progress.batch}/{module.batches.per_epoch}")

    def on_train_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Report the errors, unless epochs fly past; always those of the last."""
        last = module.progress.epoch == module.recipe.epochs or module.progress.stopped
        if last or time.monotonic() - self._said >= SECONDS_BETWEEN_LINES / 10:
            self._say(module, latest(module))

    def _say(self, module: TrainingModule, news: str) -> None:
        self._said = time.monotonic()
        done, total = self._done(module), module.recipe.epochs * module.batches.per_epoch
        left = (self._said - self._began) / max(done - self._first, 1) * (total - done)
        epoch = min(done // module.batches.per_epoch + (module.progress.batch > 0), module.recipe.epochs)
        print(
            f"epoch {epoch}/{module.recipe.epochs}  {news}  left {timedelta(seconds=round(left))}",
            file=sys.stderr,
            flush=True,
        )

    @staticmethod
    def _done(module: TrainingModule) -> int:
        return module.progress.epoch * module.batches.per_epoch + module.progress.batch
