"""What a run tells about itself: data and model before it, errors, parity plot and description after it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from crystalformers import plots
from crystalformers.data.split import SPLITS
from crystalformers.elements.table import ElementTable
from crystalformers.plots import save
from crystalformers.prediction.domain import Domain
from crystalformers.target import Target
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset
from crystalformers.training.evaluation import SplitResult
from crystalformers.training.recipe import Recipe
from crystalformers.training.state import Progress, TrainingState
from crystalformers.training.wording import counted

SHOWN = 10
"""Rows left out that are printed; the summary lists all of them."""


class TargetErrors(TypedDict):
    """Errors of one target in its unit over `n` labels."""

    mae: float | None
    rmse: float | None
    n: int
    unit: str


Errors = dict[str, dict[str, TargetErrors]]
"""By split, then by target."""


def describe_data(dataset: Dataset) -> str:
    """For each target and split the number of labels and their mean, spread and range, with units."""
    lines = [f"{'target':<32} {'split':<6} {'labels':>8} {'mean':>11} {'std':>11} {'min':>11} {'max':>11}  unit"]
    for k, target in enumerate(dataset.targets):
        for split in SPLITS:
            values = dataset.values[dataset.splits[split], k]
            values = values[~np.isnan(values)]
            numbers = (values.mean(), values.std(), values.min(), values.max()) if len(values) else (np.nan,) * 4
            cells = " ".join(f"{number:>11.5g}" for number in numbers)
            lines.append(f"{target.name:<32} {split:<6} {len(values):>8} {cells}  {target.unit}")
    if dataset.left_out:
        lines.append(f"{counted(len(dataset.left_out), 'row')} cannot be used because of the structure:")
        lines += [f"  {row.name}: {row.reason}" for row in dataset.left_out[:SHOWN]]
        if len(dataset.left_out) > SHOWN:
            lines.append(f"  ... and {len(dataset.left_out) - SHOWN} more; summary.json will list them all.")
    for excluded in dataset.excluded:
        rows, other = counted(excluded.rows, "row"), f"{excluded.table} ({excluded.split or 'all rows'})"
        lines.append(f"{rows} excluded from training because {other} has the same {excluded.by}.")
    if dataset.unlabelled:
        lines.append(f"{counted(dataset.unlabelled, 'row')} left out: they carry none of the labels.")
    return "\n".join(lines)


def describe_run(state: TrainingState, batches: Batches) -> str:
    """Size of the model, reach of its images, length of an epoch, and where a resumed run goes on."""
    progress = state.progress
    weights = sum(parameter.numel() for parameter in state.model.parameters())
    text = (
        f"{batches.recipe.architecture} with {counted(weights, 'weight')}; images within {batches.store.radius:.2f} Å; "
        f"{counted(progress.epochs, 'epoch')} of {counted(progress.batches_per_epoch, 'batch', 'batches')}"
    )
    if progress.step:
        text += f"\nresuming after step {progress.step}, epoch {progress.epoch + 1}"
    return text


def environment() -> dict[str, Any]:
    """Versions and machine, without host names or paths."""
    packages = ("crystalformers", "torch", "lightning-fabric", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
    }


def processor() -> str:
    """What the machine computes with, as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def errors(measured: SplitResult, targets: Sequence[Target]) -> dict[str, TargetErrors]:
    """Errors of each target over the labels present, by its name, for JSON."""
    return {
        target.name: {
            "mae": None if score is None else score.mae,
            "rmse": None if score is None else score.rmse,
            "n": 0 if score is None else score.n,
            "unit": target.unit,
        }
        for target, score in zip(targets, measured.scores, strict=True)
    }


def describe_end(progress: Progress) -> str:
    """How a run ended."""
    if progress.stopped_early:
        return (
            f"stopped early after epoch {progress.epoch} of {progress.epochs}: the validation error was smallest in "
            f"epoch {progress.best_epoch + 1}"
        )
    return f"finished all {counted(progress.epochs, 'epoch')}"


def describe_errors(measured: dict[str, Errors]) -> str:
    """The mean absolute errors of each set of weights, for the test split if there is one."""
    lines = []
    for weights, splits in measured.items():
        split = list(splits)[-1]
        lines.append(f"{weights}:")
        lines += [
            f"  {split} MAE {name}: {error['mae']:.4g} {error['unit']} ({counted(error['n'], 'crystal')})"
            for name, error in splits[split].items()
            if error["mae"] is not None
        ]
    return "\n".join(lines)


def summary(dataset: Dataset, progress: Progress, measured: dict[str, Errors]) -> dict[str, object]:
    """What `summary.json` says about a finished run.

    Args:
        dataset: that it was trained on.
        progress: at its end.
        measured: what each set of weights is, and its errors: those of the weight file first, those of the best epoch
            by validation last (the same if no weights were averaged).
    """
    chosen, *_ = measured
    *_, best = measured
    return {
        "weights": chosen,
        "errors": measured[chosen],
        "best": {"weights": best, "epoch": progress.best_epoch + 1, "errors": measured[best]},
        "ended": describe_end(progress),
        "epochs": progress.epoch,
        "steps": progress.step,
        "stopped_early": progress.stopped_early,
        "rows": {split: len(rows) for split, rows in dataset.splits.items()},
        "left_out": [asdict(row) for row in dataset.left_out],
        "unlabelled": dataset.unlabelled,
    }


def parity_plot(path: Path, measured: dict[str, SplitResult], targets: Sequence[Target]) -> None:
    """Predicted against true values in physical units, one panel per target; of the last split, `test` if any."""
    split, result = list(measured.items())[-1]
    pairs = []
    for k, (target, score) in enumerate(zip(targets, result.scores, strict=True)):
        present = ~np.isnan(result.labels[:, k])
        known = "" if score is None else f": MAE {score.mae:.4g} {target.unit}, {counted(score.n, 'crystal')}"
        x, y = result.labels[present, k], result.predictions[present, k]
        pairs.append(plots.Pairs(target.name, target.unit, x, y, f"{split}{known}"))
    save(plots.parity(pairs), path)


def loss_plot(path: Path, progress: Progress) -> None:
    """Training loss and validation error of each epoch, for standardised labels."""
    history = progress.history
    validation = "plain_val_loss" if "plain_val_loss" in history[-1] else "val_loss"
    columns = {"training loss": ("train_loss", history), "validation error": (validation, history)}
    averaged = [row for row in history if row[validation] != row["val_loss"]]
    if averaged:
        columns["validation error of averaged weights"] = "val_loss", averaged
    curves = {
        label: ([row["epoch"] for row in rows], [row[column] for row in rows])
        for label, (column, rows) in columns.items()
    }
    save(plots.loss_curves(curves, progress.best_epoch + 1, describe_end(progress).partition(":")[0]), path)


def card(dataset: Dataset, recipe: Recipe, vectors: ElementTable | None) -> dict[str, Any]:
    """What travels in the weight file besides the measured errors: data and recipe."""
    return {
        "library": version("crystalformers"),
        "data": {
            "name": dataset.table.path.stem,
            "fingerprint": dataset.table.fingerprint,
            "rows": {split: len(rows) for split, rows in dataset.splits.items()},
            "left_out": len(dataset.left_out),
            "unlabelled": dataset.unlabelled,
            "excluded": [asdict(excluded) for excluded in dataset.excluded],
        },
        "element_counts": dataset.element_counts,
        "domain": Domain.of((dataset.table[row] for row in dataset.splits["train"].tolist()), {}).to_dict(),
        "seed": recipe.seed,
        "tolerance": recipe.tolerance,
        "elements": None if vectors is None else {"name": vectors.name, "dim": vectors.dim, **vectors.metadata},
        "recipe": recipe.model_dump(mode="json"),
    }
