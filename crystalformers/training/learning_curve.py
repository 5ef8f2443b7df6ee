"""Learning curves: the test error of models trained on nested parts of the training rows.

For each seed the training rows are put into a random order, and the model of size n learns from the first n of them, so
that a larger part holds the smaller ones. Validation and test rows are the same for all. Every training has the same
recipe, so that one on fewer rows takes fewer steps.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalformers import plots
from crystalformers.errors import ConfigError
from crystalformers.files import write_atomically
from crystalformers.training.dataset import Dataset, Splits
from crystalformers.training.ensemble import begin_or_resume
from crystalformers.training.fit import fit
from crystalformers.training.folder import RunFolder, check_same, write_json
from crystalformers.training.observer import Observer
from crystalformers.training.recipe import Recipe

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable
    from crystalformers.target import Target

IDENTITY = "learning-curve.json"
"""What a learning curve was started with."""

CURVE = "learning-curve.csv"
"""A row for each training and target: `target`, `unit`, `rows`, `seed`, `mae`, `rmse`, `n` test labels."""

PICTURE = "learning-curve.png"


@dataclass(frozen=True)
class Point:
    """The test errors of one training for one target.

    Attributes:
        target: its name.
        unit: of the errors.
        rows: training rows.
        seed: of the training and of the order of the rows.
        mae: mean absolute error.
        rmse: root mean squared error.
        n: test labels.
    """

    target: str
    unit: str
    rows: int
    seed: int
    mae: float
    rmse: float
    n: int


def fit_learning_curve(
    table: CrystalTable,
    targets: Sequence[Target],
    run: Path,
    sizes: Sequence[int],
    recipe: Recipe | None = None,
    seeds: int = 3,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> list[Point]:
    """Train on nested parts of the training rows and measure each model on the same test rows.

    The folder has a run folder for each training, the errors as a table (`CURVE`), a picture with the fitted power law
    error = a rows^-b, and its exponents in `summary.json`.

    Args:
        table: crystals with label columns named like the targets, in the targets' units.
        targets: what to learn.
        run: the folder; created if need be.
        sizes: numbers of training rows.
        recipe: settings of every training; default: the recommended settings. Seed k is the seed of the recipe plus k.
        seeds: trainings of each size.
        resume: continue an unfinished curve in that folder (or begin, if there is none).
        observer: hears messages and progress.

    Returns:
        The errors, by target, size and seed.

    Raises:
        ConfigError: if a size is not possible or there is no test row, and as `fit`.
        TableError, TargetError, BatchMemoryError, TrainingInterrupted: as `fit`.
    """
    recipe, folder, observer = recipe or Recipe.parse({}), RunFolder(Path(run)), observer or Observer()
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 1 or seeds < 1:
        raise ConfigError("a learning curve needs sizes and seeds of at least 1", remedy="--sizes 30,100,300 --seeds 3")
    settings: dict[str, object] = {"sizes": sizes, "seeds": seeds}
    with folder.locked():
        if folder.is_finished(resume=resume):
            folder.check_recipe(recipe)
            before = json.loads((folder.path / IDENTITY).read_text(encoding="utf-8"))
            check_same(folder.path, {name: before[name] for name in settings}, settings)
            observer.message(f"{folder.path}: this learning curve is finished already.")
            return read_curve(folder.path / CURVE)
        points = list(_trained(table, targets, folder, sizes, recipe, seeds, observer))
        points.sort(key=lambda point: ([t.name for t in targets].index(point.target), point.rows, point.seed))
        observer.message(_finish(folder, points))
    return points


def nested_parts(dataset: Dataset, sizes: Sequence[int], seed: int) -> dict[int, Splits]:
    """The splits of each size: the first rows of a random order of the training rows; validation and test unchanged.

    Raises:
        ConfigError: if there are not so many training rows.
    """
    train = dataset.splits["train"]
    if max(sizes) > len(train):
        raise ConfigError(f"{max(sizes)} rows are more than the {len(train)} for training", remedy="use smaller sizes")
    order = np.random.default_rng(seed).permutation(train)
    return {size: {**dataset.splits, "train": np.sort(order[:size])} for size in sizes}


def _trained(
    table: CrystalTable,
    targets: Sequence[Target],
    folder: RunFolder,
    sizes: Sequence[int],
    recipe: Recipe,
    seeds: int,
    observer: Observer,
) -> Iterator[Point]:
    dataset = Dataset.of(table, targets, recipe)
    if not len(dataset.splits["test"]):
        raise ConfigError("there is no test row", where=str(table.path), remedy="name some in the column 'split'")
    parts = {seed: nested_parts(dataset, sizes, seed) for seed in range(recipe.seed, recipe.seed + seeds)}
    begin_or_resume(folder, IDENTITY, dataset, recipe, {"sizes": list(sizes), "seeds": seeds})
    for seed, splits_of in parts.items():
        settings = recipe.model_copy(update={"seed": seed})
        for size, splits in splits_of.items():
            observer.message(f"{size} rows, seed {seed}")
            own = RunFolder(folder.path / f"rows-{size}-seed-{seed}")
            fit(table, targets, own.path, settings, resume=True, observer=observer, splits=splits)
            errors = json.loads(own.summary.read_text(encoding="utf-8"))["errors"]["test"]
            for name, one in errors.items():
                if one["n"]:
                    yield Point(name, one["unit"], size, seed, one["mae"], one["rmse"], one["n"])


def _finish(folder: RunFolder, points: Sequence[Point]) -> str:
    """Write table, picture and summary; the mean errors and exponents in words."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Point.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(point) for point in points)
    curves = {
        name: (
            np.array([p.rows for p in points if p.target == name], float),
            np.array([p.mae for p in points if p.target == name]),
        )
        for name in dict.fromkeys(point.target for point in points)
    }
    units = {point.target: point.unit for point in points}
    write_atomically(folder.path / CURVE, text.getvalue().encode())
    plots.save(plots.learning_curve(curves, list(units.values())), folder.path / PICTURE)
    lines, summary = [], {}
    for name, (rows, errors) in curves.items():
        fitted = plots.power_law(rows, errors)
        means = {int(size): float(errors[rows == size].mean()) for size in np.unique(rows)}
        summary[name] = {"unit": units[name], "mean_mae": means, "exponent": None if fitted is None else fitted[0]}
        shown = ", ".join(f"{size} rows {mean:.4g}" for size, mean in means.items())
        slope = "" if fitted is None else f"; error ∝ rows^{-fitted[0]:.2f}"
        lines.append(f"{name}, test MAE ({units[name]}): {shown}{slope}")
    write_json(folder.summary, summary)
    return "\n".join(lines)


def read_curve(path: Path) -> list[Point]:
    """The points of a file that `fit_learning_curve` wrote."""
    kinds: dict[str, Any] = {"rows": int, "seed": int, "mae": float, "rmse": float, "n": int}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: kinds.get(name, str)(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [Point(**row) for row in rows]
