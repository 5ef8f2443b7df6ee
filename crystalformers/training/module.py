"""One training step and one validation step, as Lightning runs them. The model itself knows nothing of Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from crystalformers.errors import CrystalformersError
from crystalformers.training.averaging import WeightAverage
from crystalformers.training.batching import LabelledBatch, Loader
from crystalformers.training.dataset import Batches
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
    """Masked L1 on standardised targets, AdamW, a schedule that is a pure function of the progress.

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

    def training_step(self, batch: LabelledBatch, index: int) -> Tensor:
        """The loss of one batch."""
        loss = masked_l1(self(batch), batch.labels)
        self.loss_sum = self.loss_sum + loss.detach() * len(batch.rows)
        self.progress.crystals += len(batch.rows)
        return loss

    def on_train_batch_start(self, batch: LabelledBatch, index: int) -> None:
        """Set the learning rate of the coming step; it stands still while weights are averaged."""
        if not self.averaging or self.progress.step == 0:
            self.progress.lr = learning_rate(self.recipe, self.progress.step, self._fraction())
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.progress.lr

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
        self.errors.add(batch, self(batch))

    def on_validation_end(self) -> None:
        """Go on training where training was."""
        self.average.swap()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weights decay, biases do not."""
        recipe = self.recipe
        named = list(self.model.named_parameters())
        weights = [p for name, p in named if not name.endswith("bias")]
        biases = [p for name, p in named if name.endswith("bias")]
        groups = [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": biases, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        return optimizer

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


def masked_l1(predicted: Tensor, labels: Tensor) -> Tensor:
    """Mean absolute error over the labels that are present; both (crystals, targets), standardised."""
    present = ~labels.isnan()
    error = torch.where(present, predicted - labels.nan_to_num(), 0.0).abs()
    return error.sum() / present.sum().clamp(min=1)


def learning_rate(recipe: Recipe, step: int, fraction: float) -> float:
    """Learning rate of a step (from 0), with `fraction` of the run done.

    Published: lr sqrt(T / (T + t)), T = 4000, without warm-up.
    """
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    match recipe.schedule:
        case "inverse-sqrt":
            decay = math.sqrt(recipe.schedule_steps / (recipe.schedule_steps + step))
        case "cosine":
            decay = 0.5 * (1 + math.cos(math.pi * fraction))
        case "constant":
            decay = 1.0
    return recipe.lr * warmup * decay


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
