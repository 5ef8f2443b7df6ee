"""All that changes while a model trains: what a run must save to go on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from crystalformers.errors import CrystalformersError
from crystalformers.models import CrystalModel
from crystalformers.training.averaging import WeightAverage, copy_into, learned_tensors
from crystalformers.training.batching import Batches
from crystalformers.training.loss import Loss
from crystalformers.training.optimisation import optimizer


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epochs: epochs of the whole run.
        batches_per_epoch: the same in all of them.
        epoch: epochs completed.
        batch: batches of the current epoch done.
        step: optimiser steps done.
        lr: learning rate of the last step.
        crystals: crystals of the current epoch done, by all processes.
        seconds: training time of the current epoch so far.
        history: one row of metrics per completed epoch.
        best_loss: smallest validation error of weights that are not averaged, in standard deviations.
        best_epoch: epoch (from 0) in which it was reached.
        stopped_early: whether early stopping ended the run.
    """

    epochs: int
    batches_per_epoch: int
    epoch: int = 0
    batch: int = 0
    step: int = 0
    lr: float = 0.0
    crystals: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = -1
    stopped_early: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.stopped_early or self.epoch >= self.epochs

    @property
    def batches(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.batches_per_epoch

    @property
    def batches_done(self) -> int:
        """Batches done since the beginning of the run."""
        return self.epoch * self.batches_per_epoch + self.batch

    @property
    def fraction(self) -> float:
        """Share of the whole run that is done."""
        return (self.epoch + self.batch / self.batches_per_epoch) / self.epochs


class TrainingState:
    """A model with everything that training changes.

    Args:
        model: on its device already.
        batches: what it is trained on, and the recipe.
        identity: what the run computes; a resumed run must agree with it.

    Attributes:
        loss: with weights of its own where the recipe asks for learned ones.
        average: of the weights, over the last epochs.
        best: `learned_tensors` of the best epoch by validation, in main memory; empty before the first validation.
        loss_sum: over the crystals of the current epoch, on the device of the model.
    """

    def __init__(self, model: CrystalModel, batches: Batches, identity: Mapping[str, object]) -> None:
        recipe, device = batches.recipe, next(model.parameters()).device
        self.model, self.identity = model, identity
        self.loss = Loss(recipe.loss, recipe.loss_balance, len(batches.dataset.targets)).to(device)
        self.optimizer = optimizer(model, self.loss, recipe)
        self.average = WeightAverage(model)
        self.best: list[Tensor] = []
        self.progress = Progress(recipe.epochs, batches.per_epoch)
        self.loss_sum = torch.zeros((), device=device)

    def remember_best(self, loss: float) -> None:
        """Keep a copy of the weights if no epoch before had so small a validation error."""
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = loss, self.progress.epoch
            self.best = [weight.detach().to("cpu", copy=True) for weight in learned_tensors(self.model)]

    def check_finite(self, value: float, name: str) -> None:
        """Stop a run that has diverged before its NaN reaches a saved file.

        Raises:
            CrystalformersError: if the value is not finite.
        """
        if not math.isfinite(value):
            raise CrystalformersError(
                f"The {name} became {value} in epoch {self.progress.epoch + 1}, and would again after a resume",
                remedy="start a new run with a lower 'lr' or some 'warmup_steps'",
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors: the state after the last complete step, random numbers to come included.

        Raises:
            CrystalformersError: if the training loss is not finite.
        """
        loss_sum = float(self.loss_sum)
        self.check_finite(loss_sum, "training loss")
        return {
            "identity": dict(self.identity),
            "progress": asdict(self.progress),
            "loss_sum": loss_sum,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average_count": self.average.count,
            "average_mean": self.average.mean,
            "best": self.best,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`, for a state made with the same recipe."""
        self.progress = Progress(**state["progress"])
        self.loss_sum.fill_(state["loss_sum"])
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.count = state["average_count"]
        copy_into(self.average.mean, state["average_mean"])
        self.best = state["best"]
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
