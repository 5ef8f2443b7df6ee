"""What happens around the training steps: keeping records, saving for resume, stopping, showing progress."""

from __future__ import annotations

import csv
import io
import math
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from crystalformers.errors import CheckpointError
from crystalformers.files import write_atomically
from crystalformers.training.averaging import learned
from crystalformers.training.module import Progress, TrainingModule

MIN_SECONDS_BETWEEN_EPOCH_SAVES = 10.0
"""Epochs shorter than this do not each pay for a save."""


class TrainingInterrupted(SystemExit):
    """A signal ended the run after its state was saved; exits with 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Signals:
    """Remembers the first SIGINT or SIGTERM; another one, seconds later, ends the program at once."""

    PATIENCE = 3.0
    """Seconds within which a repeated signal is the same one (`timeout` and process groups send it twice)."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._at = 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > self.PATIENCE:
            raise TrainingInterrupted(number)

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Take over both signals inside the block; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        kept = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


class RunState:
    """All that a run needs to continue bit for bit, in one file that is replaced as a whole.

    Args:
        path: of the file.
        identity: what the run computes (recipe, data, targets); a resume must agree with it.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = identity
        self.best_weights: list[Tensor] = []

    def save(self, module: TrainingModule, optimizer_state: dict[str, Any] | None) -> None:
        """Write the state after the last complete step."""
        module.check_finite()
        module.progress.loss = float(module.loss_sum)
        content = io.BytesIO()
        state = {
            "identity": self.identity,
            "progress": asdict(module.progress),
            "model": module.model.state_dict(),
            "loss": module.loss.state_dict(),
            "optimizer": optimizer_state,
            "average": module.average.state_dict(),
            "best_weights": self.best_weights,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, content)
        write_atomically(self.path, content.getvalue())

    def read(self) -> dict[str, Any]:
        """The saved state.

        Raises:
            CheckpointError: if the file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.path}: the saved state cannot be read ({type(error).__name__}); start again in a new folder."
            ) from error
        return state

    def restore(self, module: TrainingModule, state: dict[str, Any]) -> None:
        """Put a saved state into a module that was built from the same recipe."""
        module.progress = Progress(**state["progress"])
        module.loss_sum = torch.tensor(module.progress.loss)
        module.model.load_state_dict(state["model"])
        module.loss.load_state_dict(state["loss"])
        module.optimizer_state = state["optimizer"]
        module.average.load_state_dict(state["average"])
        self.best_weights = state["best_weights"]
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])


class Keeper(Callback):
    """Counts time, writes metrics, decides when to save and when to stop.

    Args:
        run: the run folder.
        state: where to save.
        signals: asked after every step.
    """

    def __init__(self, run: Path, state: RunState, signals: Signals) -> None:
        self.run = run
        self.state = state
        self.signals = signals
        self.saved_at = self.mark = time.monotonic()

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Save the untouched state; drop metrics of epochs that a resumed run has still to repeat."""
        self.save(trainer, module)
        if trainer.is_global_zero:
            write_metrics(self.run / "metrics.csv", module.progress.history)
        self.mark = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Start the clock of the epoch."""
        self.mark = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, *args: Any) -> None:  # type: ignore[override]
        """Save and stop where it is time to; the end of an epoch is handled after validation."""
        now = time.monotonic()
        module.progress.seconds += now - self.mark
        self.mark = now
        if module.progress.batch == module.batches.per_epoch:
            return
        steps, minutes = module.recipe.checkpoint_steps, module.recipe.checkpoint_minutes
        due = bool(steps) and module.progress.step % (steps or 1) == 0
        if due or now - self.saved_at >= 60 * minutes or self.signals.received is not None:
            self.save(trainer, module)
        self.stop_if_asked()

    def on_train_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Write the metrics of the epoch, judge them, and save."""
        module.check_finite()
        progress = module.progress
        progress.history.append(self._row(trainer, module))
        if progress.history[-1]["val_loss"] < progress.best:
            progress.best, progress.best_epoch = progress.history[-1]["val_loss"], progress.epoch
            if not module.averaging:
                self.state.best_weights = [t.detach().cpu().clone() for t in learned(module.model)]
        patience = module.recipe.early_stopping
        if patience and not module.averaging and progress.epoch - progress.best_epoch >= patience:
            progress.stopped = trainer.should_stop = True
        progress.epoch += 1
        progress.batch = progress.crystals = 0
        progress.seconds = 0.0
        module.loss_sum = torch.zeros(())
        if trainer.is_global_zero:
            write_metrics(self.run / "metrics.csv", progress.history)
        last = progress.stopped or progress.epoch == module.recipe.epochs
        recent = time.monotonic() - self.saved_at < MIN_SECONDS_BETWEEN_EPOCH_SAVES
        if last or not recent or module.recipe.checkpoint_steps or self.signals.received is not None:
            self.save(trainer, module)
        if not last:
            self.stop_if_asked()

    def _row(self, trainer: Trainer, module: TrainingModule) -> dict[str, float]:
        progress = module.progress
        physical, standardised = module.errors.means(
            lambda sums: trainer.strategy.reduce(sums.to(module.device), reduce_op="sum").cpu()
        )
        train_loss = trainer.strategy.reduce(module.loss_sum / progress.crystals, reduce_op="mean")
        targets = module.batches.dataset.targets
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "lr": progress.lr,
            "train_loss": float(train_loss),
            "val_loss": standardised,
            **{f"val_mae_{t.name} ({t.unit})": mae for t, mae in zip(targets, physical, strict=True)},
            "seconds": round(progress.seconds, 3),
            "crystals_per_second": round(trainer.world_size * progress.crystals / max(progress.seconds, 1e-9), 1),
        }

    def save(self, trainer: Trainer, module: TrainingModule) -> None:
        """Save now, from the first process only."""
        if trainer.is_global_zero:
            self.state.save(module, trainer.optimizers[0].state_dict())
        self.saved_at = time.monotonic()

    def stop_if_asked(self) -> None:
        """End the program if a signal came; the state is saved by now."""
        if self.signals.received is not None:
            print(
                f"\nStopped by {signal.Signals(self.signals.received).name}; the state is saved. "
                f"Run the same command with --resume to continue in {self.run.name}.",
                file=sys.stderr,
            )
            raise TrainingInterrupted(self.signals.received)


class TensorBoard(Callback):
    """The metrics of every epoch as TensorBoard event files.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Open the file; what an interrupted run wrote beyond its saved state is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=module.progress.epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Write one epoch."""
        row = module.progress.history[-1]
        for name, value in row.items():
            self._writer.add_scalar(name, value, int(row["epoch"]))

    def on_train_end(self, trainer: Trainer, module: TrainingModule) -> None:  # type: ignore[override]
        """Close the file."""
        self._writer.close()


def write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    """All epochs so far as CSV; rewritten as a whole, so a resume leaves neither gaps nor doubles."""
    if not history:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(history[0])
    writer.writerows([["" if math.isnan(v) else f"{v:.7g}" for v in row.values()] for row in history])
    write_atomically(path, text.getvalue().encode())
