"""How far a model's predictions for a split are from its labels, during training and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalformers.images import CrystalBatch
from crystalformers.prediction.evaluation import Score, score
from crystalformers.training.batching import Batches
from crystalformers.training.memory import memory_named
from crystalformers.training.processes import over_processes, share_buffers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SplitResult:
    """What a model predicts for the rows of a split, and how far that is from the labels.

    Attributes:
        labels: physical labels of `Dataset.splits[split]`, NaN where missing, (C, targets).
        predictions: physical predictions of the same rows, (C, targets).
        scores: errors of each target in its unit; None for a target without a label in the split.
        loss: mean absolute error in standard deviations, over the targets that have labels.
    """

    labels: FloatArray
    predictions: FloatArray
    scores: tuple[Score | None, ...]
    loss: float


def standardised_predictions(model: nn.Module, crystals: CrystalBatch, *, bf16: bool) -> Tensor:
    """Predictions of a batch as the loss compares them with labels, (C, targets), float32."""
    with torch.autocast(crystals.positions.device.type, torch.bfloat16, enabled=bf16):
        predicted: Tensor = model(crystals)
    return predicted.float()


@torch.inference_mode()
def evaluate_split(
    model: nn.Module, batches: Batches, split: str, fabric: Fabric, where: str, *, bf16: bool = False
) -> SplitResult:
    """Predict a split, each process its share of every batch, and compare.

    Args:
        model: left in evaluation mode.
        batches: give the split.
        split: `val` or `test`.
        fabric: devices and processes.
        where: what a lack of memory is reported for, for example `epoch 3`.
        bf16: whether to predict in the reduced precision of training.

    Raises:
        BatchMemoryError: if a batch does not fit into memory.
    """
    dataset = batches.dataset
    rows = dataset.splits[split]
    standardised = torch.zeros(len(rows), len(dataset.targets), dtype=torch.float64)
    model.eval()
    share_buffers(fabric, model)
    for batch in batches.evaluation(split, fabric.global_rank, fabric.world_size):
        with memory_named(batch.crystals, batches.recipe, where):
            predicted = standardised_predictions(model, batch.crystals.to(fabric.device), bf16=bf16)
        standardised[np.searchsorted(rows, batch.rows)] = predicted.cpu().double()
    return _compare(batches, split, over_processes(fabric, standardised, "sum").numpy())


def _compare(batches: Batches, split: str, standardised: FloatArray) -> SplitResult:
    dataset = batches.dataset
    rows, n_atoms = dataset.splits[split], dataset.n_atoms(split)
    labels, standardised_labels = dataset.values[rows], batches.labels[rows].double().numpy()
    zero = np.zeros(len(rows))
    predictions = np.empty_like(standardised)
    scores: list[Score | None] = []
    losses = []
    for k, target in enumerate(dataset.targets):
        predictions[:, k] = target.physical(standardised[:, k], n_atoms)
        if np.isnan(labels[:, k]).all():
            scores.append(None)
            continue
        mean = target.physical(zero, n_atoms)
        scores.append(score(target.name, target.unit, labels[:, k], predictions[:, k], mean))
        losses.append(score(target.name, "std", standardised_labels[:, k], standardised[:, k], zero).mae)
    return SplitResult(labels, predictions, tuple(scores), float(np.mean(losses)))
