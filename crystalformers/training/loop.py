"""The training loop: epochs, batches, forward, backward, clip, step, average, validate, save."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from crystalformers.training.averaging import other_weights
from crystalformers.training.batching import Batches, LabelledBatch
from crystalformers.training.evaluation import SplitResult, evaluate_split, standardised_predictions
from crystalformers.training.folder import RunFolder
from crystalformers.training.interruption import Signals, TrainingInterrupted
from crystalformers.training.memory import memory_named
from crystalformers.training.observer import Observer
from crystalformers.training.optimisation import denormals_flushed, learning_rate, set_learning_rate
from crystalformers.training.parent import keep_frozen, waiting_for_head
from crystalformers.training.processes import over_processes
from crystalformers.training.published_slips import without_dropout
from crystalformers.training.state import TrainingState

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MIN_SECONDS_BETWEEN_EPOCH_SAVES = 10.0
"""Epochs shorter than this do not each pay for a save."""


class Objective(nn.Module):
    """From a batch to its loss; one module, so that several processes share the gradients of all that is learned."""

    def __init__(self, model: nn.Module, loss: nn.Module, processes: int, *, bf16: bool) -> None:
        super().__init__()
        self.model, self.loss, self.processes, self.bf16 = model, loss, processes, bf16

    def forward(self, batch: LabelledBatch) -> Tensor:
        """Loss of a batch, a scalar; of the share of one process, what has the loss as its mean over the processes."""
        predicted = standardised_predictions(self.model, batch.crystals, bf16=self.bf16)
        loss: Tensor = self.loss(predicted, batch.labels, batch.counts, self.processes)
        return loss


class TrainingLoop:
    """Trains a model until its last epoch.

    Args:
        state: what is trained; it may come from a run that was interrupted anywhere.
        batches: training and validation data, and the recipe.
        fabric: devices and processes, launched.
        folder: where metrics and the state are saved.
        observers: notified after every step and epoch.
        signals: asked after every step.
    """

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        fabric: Fabric,
        folder: RunFolder,
        observers: Sequence[Observer],
        signals: Signals,
    ) -> None:
        self.state, self.progress = state, state.progress
        self.batches, self.recipe = batches, batches.recipe
        self.fabric, self.folder = fabric, folder
        self.observers, self.signals = observers, signals
        self.bf16 = self.recipe.precision == "bf16"
        self.objective = fabric.setup_module(Objective(state.model, state.loss, fabric.world_size, bf16=self.bf16))

    @property
    def averaging(self) -> bool:
        """Whether the current epoch is one of the last, whose weights are averaged."""
        return self.progress.epoch >= self.recipe.first_averaged_epoch

    @property
    def where(self) -> str:
        """Where a batch is that does not fit into memory."""
        return f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"

    def run(self) -> None:
        """Train what is left of the run.

        Raises:
            TrainingInterrupted: after a signal; the state is saved.
            CrystalformersError: if the loss is not finite any more.
            BatchMemoryError: if a batch does not fit into memory.
        """
        self.save()
        if self.fabric.is_global_zero:
            # Epochs beyond the saved state are repeated.
            self.folder.write_metrics(self.progress.history)
        while not self.progress.finished:
            self.train_epoch()
            self.end_epoch(*self.validate())

    def train_epoch(self) -> None:
        """Train on the batches that are left of the current epoch."""
        progress, fabric = self.progress, self.fabric
        self.state.model.train(not without_dropout(self.recipe, progress.epoch))
        keep_frozen(self.state.model, self.recipe)
        start = time.monotonic()
        for batch in self.batches.train(progress.epoch, progress.batch, fabric.global_rank, fabric.world_size):
            self.step(batch.to(fabric.device))
            now = time.monotonic()
            progress.seconds += now - start
            start = now
            if progress.batch < progress.batches_per_epoch:
                self.after_step()

    def step(self, batch: LabelledBatch) -> None:
        """Forward, backward, clip, step, average."""
        state, progress, recipe = self.state, self.progress, self.recipe
        # While weights are averaged the learning rate is constant.
        if not self.averaging or progress.step == 0:
            progress.lr = learning_rate(recipe, progress.step, progress.fraction)
        set_learning_rate(state.optimizer, progress.lr, head_only=waiting_for_head(recipe, progress.epoch))
        state.optimizer.zero_grad()
        with memory_named(batch.crystals, recipe, self.where):
            loss = self.objective(batch)
            self.fabric.backward(loss)
        self.fabric.clip_gradients(self.objective, state.optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
        with denormals_flushed():
            state.optimizer.step()
        if self.averaging:
            state.average.update()
        state.loss_sum += over_processes(self.fabric, loss.detach(), "mean") * batch.size
        progress.crystals += batch.size
        progress.step += 1
        progress.batch += 1

    def after_step(self) -> None:
        """Save and stop where it is time to; after the last step of an epoch that waits for the validation."""
        steps, minutes = self.recipe.checkpoint_steps, self.recipe.checkpoint_minutes
        due = bool(steps) and self.progress.step % (steps or 1) == 0
        signal = self.signal()
        if due or signal or time.monotonic() - self.saved_at >= 60 * minutes:
            self.save()
        for observer in self.observers:
            observer.step(self.progress)
        self.stop_after(signal)

    def validate(self) -> tuple[SplitResult, SplitResult]:
        """Errors of the weights as they are, and of their average (the same before averaging begins).

        In the last epochs that is two passes over the validation split, so that the best epoch may be any.
        """
        model, average = self.state.model, self.state.average
        plain = evaluate_split(model, self.batches, "val", self.fabric, self.where, bf16=self.bf16)
        if not self.averaging:
            return plain, plain
        with other_weights(model, average.mean):
            return plain, evaluate_split(model, self.batches, "val", self.fabric, self.where, bf16=self.bf16)

    def end_epoch(self, plain: SplitResult, averaged: SplitResult) -> None:
        """Record the metrics of an epoch, judge them, and save."""
        state, progress, patience = self.state, self.progress, self.recipe.early_stopping
        progress.history.append(self.metrics(plain, averaged))
        state.remember_best(plain.loss)
        if patience and not self.averaging and progress.epoch - progress.best_epoch >= patience:
            progress.stopped_early = True
        progress.epoch += 1
        progress.batch = progress.crystals = 0
        progress.seconds = 0.0
        state.loss_sum.zero_()
        if self.fabric.is_global_zero:
            self.folder.write_metrics(progress.history)
        recent = time.monotonic() - self.saved_at < MIN_SECONDS_BETWEEN_EPOCH_SAVES
        signal = self.signal()
        if progress.finished or not recent or self.recipe.checkpoint_steps or signal:
            self.save()
        for observer in self.observers:
            observer.epoch(progress)
        if not progress.finished:
            self.stop_after(signal)

    def metrics(self, plain: SplitResult, averaged: SplitResult) -> dict[str, float]:
        """One row of metrics.csv.

        Raises:
            CrystalformersError: if the training loss or a validation error is not finite.
        """
        progress = self.progress
        train_loss = float(self.state.loss_sum / progress.crystals)
        self.state.check_finite(train_loss, "training loss")
        self.state.check_finite(plain.loss, "validation error")
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "lr": progress.lr,
            "train_loss": train_loss,
            **self.validation_metrics(averaged),
            **(self.validation_metrics(plain, "plain_") if self.recipe.average_epochs else {}),
            "seconds": round(progress.seconds, 3),
            "crystals_per_second": round(progress.crystals / max(progress.seconds, 1e-9), 1),
        }

    def validation_metrics(self, errors: SplitResult, prefix: str = "") -> dict[str, float]:
        """Validation error in standard deviations, and of each target in its unit."""
        targets = zip(self.batches.dataset.targets, errors.scores, strict=True)
        return {
            f"{prefix}val_loss": errors.loss,
            **{f"{prefix}val_mae_{t.name} ({t.unit})": torch.nan if s is None else s.mae for t, s in targets},
        }

    def save(self) -> None:
        """Save the state, from the first process only."""
        if self.fabric.is_global_zero:
            self.folder.save_state(self.state)
        self.saved_at = time.monotonic()

    def signal(self) -> int:
        """Number of the signal that any process has received; 0 for none."""
        return int(over_processes(self.fabric, torch.tensor(self.signals.received), "max"))

    def stop_after(self, signal: int) -> None:
        """End the run if a signal came; the state is saved by now."""
        if signal:
            # The others must not end, and thereby end the first process, while that is saving.
            self.fabric.barrier()
            raise TrainingInterrupted(signal)
