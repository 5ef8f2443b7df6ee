"""One training step and one validation step, as Lightning runs them. The model itself knows nothing of Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from crystalformers.errors import CrystalformersError
from crystalformers.training.averaging import WeightAverage
from crystalformers.training.batching import Batches, LabelledBatch, Loader
from crystalformers.training.loss import Loss
from crystalformers.training.memory import memory_named
from crystalformers.training.optimisation import learning_rate, optimizer, set_learning_rate
from crystalformers.training.published_slips import without_dropout
from crystalformers.training.recipe import Recipe


@dataclass
class Progress:
    """Where a run stands; with the tensors, all that a resume needs to know.

    Attributes:
        epoch: epochs completed.
        batch: batches of the current epoch done.
        step: optimiser steps done.
        lr: learning rate of the last step.
        loss: sum over the crystals of this epoch of the training loss so far (up to date when saved).
        crystals: how many those are.
        seconds: training time of this epoch so far.
        history: one row of metrics per completed epoch.
        best: smallest validation error, in standard deviations.
        best_epoch: epoch in which it was reached.
        stopped: whether early stopping ended the run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    lr: float = 0.0
    loss: float = 0.0
    crystals: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1
    stopped: bool = False


class TrainingModule(LightningModule):
    """Masked loss on standardised targets, and a learning rate that is a pure function of the progress.

    Args:
        model: predicts standardised targets, (crystals, targets).
        batches: training and validation data.
        recipe: all settings.
    """

    def __init__(self, model: nn.Module, batches: Batches, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.batches = batches
        self.recipe = recipe
        self.progress = Progress()
        self.average = WeightAverage(model)
        self.optimizer_state: dict[str, Any] | None = None
        self.loss = Loss(recipe.loss, recipe.loss_balance, len(batches.dataset.targets))
        self.loss_sum = torch.zeros(())
        self.errors = Errors(batches)

    @property
    def averaging(self) -> bool:
        """Whether the current epoch is one of the last, whose weights are averaged."""
        return self.progress.epoch >= self.recipe.first_averaged_epoch

    def forward(self, batch: LabelledBatch) -> Tensor:
        """Standardised predictions, (crystals, targets), float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            predicted: Tensor = self.model(batch.crystals)
        return predicted.float()

    def _memory_named(self, batch: LabelledBatch) -> AbstractContextManager[None]:
        step = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
        return memory_named(batch.crystals, self.recipe, step)

    def training_step(self, batch: LabelledBatch, index: int) -> Tensor:
        """The loss of one batch."""
        self._at_work = batch
        with self._memory_named(batch):
            return self._loss_of(batch)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the batch at work."""
        with self._memory_named(self._at_work):
            super().backward(loss, *args, **kwargs)

    def _loss_of(self, batch: LabelledBatch) -> Tensor:
        loss: Tensor = self.loss(self(batch), batch.labels)
        self.loss_sum = self.loss_sum + loss.detach() * len(batch.rows)
        self.progress.crystals += len(batch.rows)
        return loss

    def on_train_batch_start(self, batch: LabelledBatch, index: int) -> None:
        """Set the learning rate of the coming step; it stands still while weights are averaged."""
        if not self.averaging or self.progress.step == 0:
            self.progress.lr = learning_rate(self.recipe, self.progress.step, self._fraction())
        set_learning_rate(self.trainer.optimizers[0], self.progress.lr)

    def _fraction(self) -> float:
        """Share of the whole run that is done."""
        progress = self.progress
        return (progress.epoch + progress.batch / self.batches.per_epoch) / self.recipe.epochs

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, count the step, and take the new weights into the average."""
        super().optimizer_step(*args, **kwargs)
        self.progress.step += 1
        self.progress.batch += 1
        if self.averaging:
            self.average.update()

    def on_validation_start(self) -> None:
        """Validate what would be kept: the average, once there is one."""
        self.average.swap()

    def validation_step(self, batch: LabelledBatch, index: int) -> None:
        """Collect the errors of one batch."""
        with self._memory_named(batch):
            self.errors.add(batch, self(batch))

    def on_validation_end(self) -> None:
        """Go on training where training was."""
        self.average.swap()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the recipe, as far as it had come."""
        chosen = optimizer(self.model, self.loss, self.recipe)
        if self.optimizer_state is not None:
            chosen.load_state_dict(self.optimizer_state)
        return chosen

    def on_train_epoch_start(self) -> None:
        """Train without dropout where the recipe says so."""
        if without_dropout(self.recipe, self.progress.epoch):
            self.model.eval()

    def train_dataloader(self) -> Loader:
        """What is left of the current epoch; asked for anew every epoch."""
        trainer = self.trainer
        return self.batches.train(self.progress.epoch, self.progress.batch, trainer.global_rank, trainer.world_size)

    def val_dataloader(self) -> Loader:
        """The validation split."""
        return self.batches.evaluation("val", self.trainer.global_rank, self.trainer.world_size)

    def check_finite(self) -> None:
        """Stop a run that has diverged before its NaN reaches a checkpoint.

        Raises:
            CrystalformersError: if the loss of this epoch is not finite.
        """
        if not math.isfinite(float(self.loss_sum)):
            raise CrystalformersError(
                f"The training loss became {float(self.loss_sum)} in epoch {self.progress.epoch + 1}; resume with "
                "nothing changed repeats it: start a new run with a lower 'lr' or some 'warmup_steps'."
            )


class Errors:
    """Absolute errors of a split, summed as its batches come.

    Args:
        batches: gives the targets and the labels in physical units.
    """

    def __init__(self, batches: Batches) -> None:
        self.dataset = batches.dataset
        # Per target: sum in physical units, sum in standard deviations, labels.
        self.sums = torch.zeros(3, len(self.dataset.targets), dtype=torch.float64)

    def add(self, batch: LabelledBatch, predicted: Tensor) -> None:
        """Take in predictions (crystals, targets), standardised."""
        n_atoms = self.dataset.table.n_atoms[batch.rows]
        standardised = predicted.double().cpu().numpy()
        labels = batch.labels.double().cpu().numpy()
        for k, target in enumerate(self.dataset.targets):
            physical = np.abs(target.physical(standardised[:, k], n_atoms) - self.dataset.values[batch.rows, k])
            scaled = np.abs(standardised[:, k] - labels[:, k])
            self.sums[:, k] += torch.tensor([np.nansum(physical), np.nansum(scaled), np.isfinite(scaled).sum()])

    def means(self, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> tuple[list[float], float]:
        """Mean absolute error per target in physical units, and their mean in standard deviations; starts anew.

        A target without any label in the split reports NaN and does not count in the mean.

        Args:
            total: adds up the sums of all processes.
        """
        physical, scaled, labels = total(self.sums.clone())
        self.sums.zero_()
        return (physical / labels).tolist(), float((scaled / labels).nanmean())
