"""Held-out predictions: every row of a cross-validation by the model that had not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalformers.files import replacing
from crystalformers.prediction.evaluation import Score, score
from crystalformers.prediction.intervals import Calibration
from crystalformers.prediction.model import Model, network_outputs
from crystalformers.prediction.reference import Reference, count_for
from crystalformers.training import calibration
from crystalformers.training.dataset import Splits

if TYPE_CHECKING:
    from crystalformers.data.split import IntArray
    from crystalformers.data.table import CrystalTable
    from crystalformers.target import Target

HELD_OUT = "held-out.parquet"
"""The predictions of all rows by the members that had not seen them, in the folder of an ensemble."""


@dataclass(frozen=True)
class HeldOut:
    """What each row's own fold tells: predictions by the member that has not seen it.

    Attributes:
        rows: of the table, ascending, (R,).
        fold: which member left the row out, (R,).
        labels: physical, NaN where missing, (R, T).
        predictions: physical, (R, T).
        distances: to the training crystals of that member (`prediction.reference`), (R,).
        targets: what was predicted.
    """

    rows: IntArray
    fold: IntArray
    labels: NDArray[np.float64]
    predictions: NDArray[np.float64]
    distances: NDArray[np.float64]
    targets: tuple[Target, ...]

    def scores(self) -> dict[str, Score]:
        """Errors of each target over all rows; the baseline predicts the mean of the labels."""
        return {target.name: self._score(k, slice(None)) for k, target in enumerate(self.targets)}

    def spread(self, target: int) -> tuple[float, float | None]:
        """Mean and standard deviation over the folds of the mean absolute error of a target; None for a single fold."""
        errors = [
            self._score(target, self.fold == fold).mae
            for fold in np.unique(self.fold)
            if not np.isnan(self.labels[self.fold == fold, target]).all()
        ]
        return float(np.mean(errors)), float(np.std(errors, ddof=1)) if len(errors) > 1 else None

    def calibration(self, n_atoms: IntArray, seed: int) -> dict[str, Calibration]:
        """How far each target is off in standardised units.

        Args:
            n_atoms: of every row of the table.
            seed: of the halves of the rows.
        """
        sizes = n_atoms[self.rows]
        return {
            target.name: Calibration.of(
                target.standardise(self.predictions[:, k], sizes) - target.standardise(self.labels[:, k], sizes),
                {"distance": self.distances},
                seed,
            )
            for k, target in enumerate(self.targets)
        }

    def _score(self, k: int, rows: Any) -> Score:
        labels, predictions = self.labels[rows, k], self.predictions[rows, k]
        return score(self.targets[k].name, self.targets[k].unit, labels, predictions, np.array(np.nanmean(labels)))


def held_out_predictions(
    table: CrystalTable, models: Sequence[Model], folds: Sequence[Splits], seed: int
) -> tuple[HeldOut, list[Reference]]:
    """What the members predict for the rows that they had not seen, and the reference of each."""
    left_out = [splits["val"] for splits in folds]
    targets, predictions, references, distances = models[0].targets, [], [], []
    for k, (model, rows) in enumerate(zip(models, left_out, strict=True)):
        crystals = calibration.crystals_of(table, rows)
        (found,) = network_outputs([model], crystals, vectors=True)
        predictions.append(model.values_from(found, crystals))
        train = np.random.default_rng(seed + k).permutation(folds[k]["train"])[: count_for(len(models))]
        (known,) = network_outputs([model], calibration.crystals_of(table, train), vectors=True)
        reference = Reference.of(known.vectors[0], found.vectors[0], len(models))
        references.append(reference)
        distances.append(reference.distances(found.vectors))
    rows = np.concatenate(left_out)
    order = np.argsort(rows)
    held_out = HeldOut(
        rows[order],
        np.repeat(np.arange(len(folds)), [len(rows) for rows in left_out])[order],
        np.stack([table.labels(target.name) for target in targets], axis=1)[rows[order]],
        np.concatenate(predictions)[order],
        np.concatenate(distances)[order],
        targets,
    )
    return held_out, references


def write_held_out(path: Path, table: CrystalTable, held_out: HeldOut) -> None:
    """Write labels and predictions of every row as Parquet, the unit of each target in the metadata."""
    columns: dict[str, Any] = {"id": [table.ids[row] for row in held_out.rows], "fold": held_out.fold}
    for k, target in enumerate(held_out.targets):
        columns |= {target.name: held_out.labels[:, k], f"predicted_{target.name}": held_out.predictions[:, k]}
    units = {target.name: target.unit for target in held_out.targets}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(units), temporary)
