"""Errors of a model on the labels of a table, in physical units, and those of a constant prediction for comparison.

The errors of crystals like the training data and of those with a flag are given apart as well: a model that is used on
another database errs more outside of what it knows.

Shapes: C rows that are evaluated, T targets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.data.table import CrystalTable
from crystalformers.errors import StructureError, TableError
from crystalformers.io import Rejected
from crystalformers.prediction.batching import Advance, no_progress, windows
from crystalformers.prediction.predictor import WINDOW, Predictor

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Errors of one target over the rows that have its label.

    Attributes:
        target: name of the target.
        unit: unit of every error here.
        n: number of these rows.
        mae: mean absolute error.
        rmse: root mean squared error.
        r2: coefficient of determination; None if all labels are equal.
        baseline_mae: mean absolute error of predicting the mean of the training labels for every row.
        baseline_rmse: root mean squared error of the same.
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
class DomainScore:
    """Errors of one target inside and outside the domain of the model, over the rows that have its label.

    Attributes:
        target: name of the target.
        unit: unit of the errors.
        n_inside: rows without a flag.
        n_outside: rows with a flag.
        mae_inside: mean absolute error of those without; None if there are none.
        mae_outside: mean absolute error of those with a flag; None if there are none.
        ratio: error outside in units of that inside; None unless both are known and the latter is not zero.
    """

    target: str
    unit: str
    n_inside: int
    n_outside: int
    mae_inside: float | None
    mae_outside: float | None
    ratio: float | None

    @classmethod
    def of(cls, score: Score, errors: FloatArray, outside: NDArray[np.bool_]) -> DomainScore:
        """From absolute errors, (C,), NaN where there is no label, and whether each crystal has a flag, (C,)."""
        parts = [errors[known & ~np.isnan(errors)] for known in (~outside, outside)]
        inside, out = (float(part.mean()) if len(part) else None for part in parts)
        ratio = out / inside if inside and out is not None else None
        return cls(score.target, score.unit, len(parts[0]), len(parts[1]), inside, out, ratio)


@dataclass(frozen=True)
class Evaluation:
    """Predictions and errors of a model on rows of a table.

    Attributes:
        split: `train`, `val`, `test` or `all`.
        scores: one for each target of which the table has a column.
        ids: ids of the predicted rows, (C,).
        labels: physical labels, NaN where missing, (C, T) in the order of `scores`.
        predictions: physical predictions, (C, T).
        rejected: rows whose structure cannot be used; they do not count in any score.
        flags: why each predicted row is unlike the training data, empty if it is not, (C,).
    """

    split: str
    scores: list[Score]
    ids: list[str]
    labels: FloatArray
    predictions: FloatArray
    rejected: list[Rejected]
    flags: list[str]

    @property
    def domain_scores(self) -> list[DomainScore]:
        """The errors of each target inside and outside the domain of the model."""
        errors, outside = np.abs(self.predictions - self.labels), np.array([bool(flag) for flag in self.flags])
        return [DomainScore.of(score, errors[:, k], outside) for k, score in enumerate(self.scores)]


def evaluate_model(
    model: Predictor,
    table: CrystalTable,
    split: str | None = None,
    run: Path | None = None,
    advance: Advance = no_progress,
) -> Evaluation:
    """Measure the errors of a model on a table whose label columns have the names of the model's targets.

    Args:
        model: the trained model, or several that predict together.
        table: structures with labels in the physical units of the targets.
        split: `train`, `val`, `test`, or `all`. Default: `test` if the split is known, else `all`.
        run: folder of a training whose `splits.json` takes precedence over the table's own split, if the
            table has all of its ids.
        advance: called with the number of structures in each batch that is done.

    Raises:
        TableError: if the split is unknown or empty, or no target has a labelled row.
    """
    split, rows = select_rows(table, split, run)
    return evaluate_rows(model, table, split, rows, advance)


def evaluate_rows(
    model: Predictor, table: CrystalTable, split: str, rows: Sequence[int], advance: Advance = no_progress
) -> Evaluation:
    """Measure the errors of a model on some rows of a table.

    Args:
        model: the trained model, or several that predict together.
        table: structures with labels in the physical units of the targets.
        split: name of the rows in the result.
        rows: their numbers in the table, counted from 0.
        advance: called with the number of structures in each batch that is done.

    Raises:
        TableError: if no target has a labelled row, or no structure can be used.
    """
    columns = [k for k, target in enumerate(model.targets) if target.name in table.columns]
    if not columns:
        wanted = ", ".join(target.name for target in model.targets)
        remedy = "give the label column the name of the model's target"
        raise TableError(f"the table has no column {wanted}", where=str(table.path), remedy=remedy)
    used, predictions, flags, rejected = _predict_rows(model, table, rows, advance)
    n_atoms = np.asarray(table.n_atoms)[used]
    targets = [model.targets[k] for k in columns]
    predictions = predictions[:, columns]
    labels = np.stack([table.labels(target.name)[used] for target in targets], axis=-1)
    scores = []
    for k, target in enumerate(targets):
        baseline = target.physical(np.zeros(len(used)), n_atoms)
        scores.append(score(target.name, target.unit, labels[:, k], predictions[:, k], baseline))
    return Evaluation(split, scores, [table.ids[row] for row in used], labels, predictions, rejected, flags)


def score(name: str, unit: str, labels: FloatArray, predictions: FloatArray, baseline: FloatArray) -> Score:
    """Errors over the rows whose label is not NaN.

    Args:
        name: name of the target.
        unit: unit of all numbers.
        labels: true values, (C,), NaN where missing.
        predictions: predicted values, (C,).
        baseline: what is predicted without a model, (C,) or one number for all rows.

    Raises:
        TableError: if no row has a label.
    """
    present = ~np.isnan(labels)
    if not present.any():
        problem = "no evaluated row carries a label"
        raise TableError(problem, where=name, remedy="choose other rows or another table")
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
    """The name of a split and the numbers of its rows in the table; arguments as of `evaluate_model`.

    Raises:
        TableError: if neither the run nor the table knows the split, or it has no rows.
    """
    members = _splits(table, run)
    if split == "all" or (split is None and members is None):
        return "all", list(range(len(table)))
    if members is None:
        problem = f"the table has no column 'split', so no rows '{split}'"
        raise TableError(problem, where=str(table.path), remedy="add the column or use split 'all'")
    split = split or "test"
    rows = [row for row, member in enumerate(members) if member == split]
    if not rows:
        known = ", ".join(sorted({member for member in members if member}))
        problem = f"Not one row is in split '{split}'"
        raise TableError(problem, remedy=f"there are rows in {known}")
    return split, rows


def _splits(table: CrystalTable, run: Path | None) -> Sequence[str | None] | None:
    """The split of each row: the run's own if the table has all of its ids, else the table's."""
    path = run / "splits.json" if run is not None else None
    if path is not None and path.is_file():
        members: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        split_of = {str(name): split for split, ids in members.items() for name in ids}
        if set(split_of) <= set(table.ids):
            return [split_of.get(name) for name in table.ids]
    return table.split


def _predict_rows(
    model: Predictor, table: CrystalTable, rows: Sequence[int], advance: Advance
) -> tuple[list[int], FloatArray, list[str], list[Rejected]]:
    """Rows that could be predicted, their values (C, T) and flags (C,), and the rejected structures."""
    used: list[int] = []
    rejected: list[Rejected] = []
    parts: list[FloatArray] = []
    flags: list[str] = []
    for window in windows(rows, WINDOW):
        crystals: list[Crystal] = []
        for row in window:
            try:
                crystals.append(table[row])
                used.append(row)
            except StructureError as error:
                rejected.append(Rejected.of(table.ids[row], error))
        if crystals:
            found = model.estimates(crystals, advance)
            parts.append(found["values"])
            flags += found["flag"].tolist()
    if not parts:
        raise TableError("not one structure of the evaluated rows could be used", where=str(table.path))
    return used, np.concatenate(parts), flags, rejected
