"""How well a model predicts the labels of a table, in physical units, beside the simplest of all guesses.

Shapes: C rows that are evaluated, T targets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import StructureError, TableError
from crystalformers.io import Rejected
from crystalformers.prediction.batching import no_progress, windows
from crystalformers.prediction.model import WINDOW, Model

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.data.table import CrystalTable

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Errors of one target over the rows that carry its label.

    Attributes:
        target: name of the target.
        unit: unit of every error here.
        n: rows counted.
        mae: mean absolute error.
        rmse: root of the mean squared error.
        r2: coefficient of determination; None where the labels do not vary.
        baseline_mae: mean absolute error of always predicting the mean of the training labels.
        baseline_rmse: the same for the root of the mean squared error.
    """

    target: str
    unit: str
    n: int
    mae: float
    rmse: float
    r2: float | None
    baseline_mae: float
    baseline_rmse: float


@dataclass(frozen=True)
class Evaluation:
    """A model measured on rows of a table.

    Attributes:
        split: `train`, `val`, `test` or `all`.
        scores: one per target whose label the table holds.
        ids: ids of the predicted rows, (C,).
        labels: physical labels, NaN where missing, (C, T) in the order of `scores`.
        predictions: physical predictions, (C, T).
        rejected: rows whose structure is bad; they count nowhere.
    """

    split: str
    scores: list[Score]
    ids: list[str]
    labels: FloatArray
    predictions: FloatArray
    rejected: list[Rejected]


def evaluate_model(
    model: Model,
    table: CrystalTable,
    split: str | None = None,
    run: Path | None = None,
    advance: Callable[[int], object] = no_progress,
) -> Evaluation:
    """Measure a model on a table whose label columns are named like the model's targets.

    Args:
        model: the trained model.
        table: structures with labels in the physical units of the targets.
        split: `train`, `val`, `test`, or `all`. Default: `test` where a split is known, else `all`.
        run: folder of the training whose `splits.json` takes precedence over the table's own split, if the
            table holds its ids.
        advance: hears how many structures each finished batch held.

    Raises:
        TableError: if the split is unknown or empty, or no target has a labelled row.
    """
    split, rows = select_rows(table, split, run)
    columns = [k for k, target in enumerate(model.targets) if target.name in table.columns]
    if not columns:
        wanted = ", ".join(target.name for target in model.targets)
        raise TableError(f"The table has no column {wanted}; name the label column like the model's target.")
    kept, predictions, n_atoms, rejected = _predict_rows(model, table, rows, advance)
    targets = [model.targets[k] for k in columns]
    predictions = predictions[:, columns]
    labels = np.stack([table.labels(target.name)[kept] for target in targets], axis=-1)
    scores = []
    for k, target in enumerate(targets):
        baseline = target.physical(np.zeros(len(kept)), n_atoms)
        scores.append(score(target.name, target.unit, labels[:, k], predictions[:, k], baseline))
    return Evaluation(split, scores, [table.ids[row] for row in kept], labels, predictions, rejected)


def score(name: str, unit: str, labels: FloatArray, predictions: FloatArray, baseline: FloatArray) -> Score:
    """Errors over the rows whose label is not NaN; arrays (C,), all in `unit`.

    Raises:
        TableError: if not one row carries a label.
    """
    present = ~np.isnan(labels)
    if not present.any():
        raise TableError(f"{name}: no evaluated row carries a label; choose other rows or another table.")
    labels, errors = labels[present], (predictions - labels)[present]
    baseline_errors = (baseline[present] if baseline.ndim else baseline) - labels
    spread = float(np.square(labels - labels.mean()).sum())
    return Score(
        target=name,
        unit=unit,
        n=len(labels),
        mae=float(np.abs(errors).mean()),
        rmse=math.sqrt(np.square(errors).mean()),
        r2=1 - float(np.square(errors).sum()) / spread if spread > 0 else None,
        baseline_mae=float(np.abs(baseline_errors).mean()),
        baseline_rmse=math.sqrt(np.square(baseline_errors).mean()),
    )


def select_rows(table: CrystalTable, split: str | None, run: Path | None) -> tuple[str, list[int]]:
    """The split that is meant and its rows in the table.

    Raises:
        TableError: if a split is asked for that neither the run nor the table knows, or it has no rows here.
    """
    members = _splits(table, run)
    if split == "all" or (split is None and members is None):
        return "all", list(range(len(table)))
    if members is None:
        raise TableError(f"The table has no column 'split', so no rows '{split}'; add the column or use split 'all'.")
    split = split or "test"
    rows = [row for row, member in enumerate(members) if member == split]
    if not rows:
        known = ", ".join(sorted({member for member in members if member}))
        raise TableError(f"Not one row is in split '{split}'; there are rows in {known}.")
    return split, rows


def _splits(table: CrystalTable, run: Path | None) -> Sequence[str | None] | None:
    """The split of each row: the run's own where its ids are those of the table, else the table's."""
    path = run / "splits.json" if run is not None else None
    if path is not None and path.is_file():
        members: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        split_of = {str(name): split for split, ids in members.items() for name in ids}
        if set(split_of) <= set(table.ids):
            return [split_of.get(name) for name in table.ids]
    return table.split


def _predict_rows(
    model: Model, table: CrystalTable, rows: Sequence[int], advance: Callable[[int], object]
) -> tuple[list[int], FloatArray, NDArray[np.int64], list[Rejected]]:
    """Rows that could be predicted, their values (C, T) and numbers of atoms (C,), and the rejected."""
    kept: list[int] = []
    rejected: list[Rejected] = []
    parts: list[FloatArray] = []
    for window in windows(rows, WINDOW):
        crystals: list[Crystal] = []
        for row in window:
            try:
                crystals.append(table[row])
                kept.append(row)
            except StructureError as error:
                rejected.append(Rejected(table.ids[row], str(error)))
        if crystals:
            parts.append(model.values(crystals, advance))
    if not parts:
        raise TableError("Not one structure of the evaluated rows could be used.")
    return kept, np.concatenate(parts), np.asarray(table.n_atoms)[kept], rejected
