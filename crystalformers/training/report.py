"""What a run leaves behind: the table of targets before, errors, parity plot and description after."""

from __future__ import annotations

import platform
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crystalformers.checkpoint import write_atomically
from crystalformers.data.split import SPLITS, IntArray
from crystalformers.target import Target
from crystalformers.training.batching import Batches, Loader
from crystalformers.training.dataset import Dataset
from crystalformers.training.memory import memory_named
from crystalformers.training.recipe import Recipe

if TYPE_CHECKING:
    from crystalformers.elements.table import ElementTable

FloatArray = NDArray[np.float64]
SHOWN = 10
"""Rows left out that are printed; the summary lists all of them."""


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
        lines.append(f"{len(dataset.left_out)} rows are left out because their structure cannot be used:")
        lines += [f"  {row.name}: {row.reason}" for row in dataset.left_out[:SHOWN]]
        if len(dataset.left_out) > SHOWN:
            lines.append(f"  ... and {len(dataset.left_out) - SHOWN} more; summary.json will list them all.")
    for excluded in dataset.excluded:
        lines.append(
            f"{excluded.rows} rows are not learned from because {excluded.table} ({excluded.split or 'all rows'}) "
            f"holds the same {excluded.by}."
        )
    if dataset.unlabelled:
        lines.append(f"{dataset.unlabelled} rows are left out because they carry none of the labels.")
    return "\n".join(lines)


def describe_run(model: nn.Module, batches: Batches) -> str:
    """Size of the model, reach of its images and length of an epoch."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{batches.recipe.architecture} with {weights:,} weights; images within {batches.store.radius:.2f} Å; "
        f"{batches.recipe.epochs} epochs of {batches.per_epoch} batches"
    )


def environment() -> dict[str, Any]:
    """Versions and machine, without host names or paths."""
    packages = ("crystalformers", "torch", "lightning", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@torch.inference_mode()
def predictions(model: nn.Module, loader: Loader, dataset: Dataset, recipe: Recipe) -> tuple[IntArray, FloatArray]:
    """Rows of a split, (C,), and what the model predicts for them in physical units, (C, targets)."""
    device = next(model.parameters()).device
    batch_rows, outputs = [], []
    for batch in loader:
        batch_rows.append(batch.rows)
        with memory_named(batch.crystals, recipe, "the final evaluation"):
            outputs.append(model(batch.to(device).crystals).double().cpu().numpy())
    rows, standardised = np.concatenate(batch_rows), np.concatenate(outputs)
    n_atoms = dataset.table.n_atoms[rows]
    return rows, np.stack([t.physical(standardised[:, k], n_atoms) for k, t in enumerate(dataset.targets)], axis=1)


def errors(true: FloatArray, predicted: FloatArray, targets: tuple[Target, ...]) -> dict[str, dict[str, Any]]:
    """Mean absolute and root mean square error of each target in its unit, over the labels present."""
    result = {}
    for k, target in enumerate(targets):
        present = ~np.isnan(true[:, k])
        error = (predicted - true)[present, k]
        result[target.name] = {
            "mae": float(np.abs(error).mean()) if present.any() else None,
            "rmse": float(np.sqrt((error**2).mean())) if present.any() else None,
            "n": int(present.sum()),
            "unit": target.unit,
        }
    return result


def parity_plot(path: Path, true: FloatArray, predicted: FloatArray, targets: tuple[Target, ...], split: str) -> None:
    """Predicted against true values in physical units, one panel per target, (C, targets) each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(targets), 4.2), layout="constrained")
    panels = figure.subplots(1, len(targets), squeeze=False)[0]
    measured = errors(true, predicted, targets)
    for k, (panel, target) in enumerate(zip(panels, targets, strict=True)):
        present = ~np.isnan(true[:, k])
        x, y = true[present, k], predicted[present, k]
        panel.scatter(x, y, s=6, alpha=0.4, linewidths=0, rasterized=True)
        if len(x):
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            panel.plot(ends, ends, color="black", linewidth=0.8)
            panel.set_title(f"{split}: MAE {measured[target.name]['mae']:.4g} {target.unit}, {len(x)} crystals")
        panel.set_xlabel(f"true {target.name} ({target.unit})")
        panel.set_ylabel(f"predicted {target.name} ({target.unit})")
        panel.set_aspect("equal", adjustable="datalim")
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())


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
            "excluded": [excluded.to_dict() for excluded in dataset.excluded],
        },
        "element_counts": dataset.element_counts,
        "seed": recipe.seed,
        "tolerance": recipe.tolerance,
        "elements": None if vectors is None else {"name": vectors.name, "dim": vectors.dim, **vectors.metadata},
        "recipe": recipe.model_dump(mode="json"),
    }
