"""Cross-validation by the folds that a table names, with every training resumable.

A fold's models see nothing of its rows: they are trained on the other folds, of which a part drawn at random is for
validation, and predict the fold when they are finished. What is measured is the mean over folds of the mean absolute
error, of each seed and of the mean of all seeds.

Shapes: F rows of a fold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalformers.data.split import IntArray
from crystalformers.data.table import CrystalTable
from crystalformers.errors import ConfigError, TableError
from crystalformers.files import replacing
from crystalformers.prediction.loading import load_model
from crystalformers.target import Target
from crystalformers.training import Observer, fit
from crystalformers.training.folder import RunFolder, write_json
from crystalformers.training.recipe import Recipe

COLUMNS = ("fold", "matbench_fold")
"""Columns that may say in which fold a row is for test."""

SPLIT_COLUMNS = "split_fold_"
"""Start of the names of columns that each divide the rows for one fold, as public data sets have them."""

PREDICTIONS = "predictions.parquet"
RESULT = "result.json"


@dataclass(frozen=True)
class Folds:
    """In which fold each row of a table is for test.

    Attributes:
        of_row: a number from 0 on, (rows,).
    """

    of_row: IntArray

    @classmethod
    def of(cls, table: CrystalTable) -> Folds:
        """Those that a column names.

        Raises:
            TableError: if there is no such column, a row is in no fold, or a fold is empty.
        """
        column = next((name for name in COLUMNS if name in table.columns), None)
        splits = sorted(name for name in table.columns if name.startswith(SPLIT_COLUMNS))
        if column is not None:
            found = table.labels(column)
            source = f"column '{column}'"
        elif splits:
            tests = np.stack([np.array(table.column(name)) == "test" for name in splits])
            found = np.where(tests.sum(axis=0) == 1, tests.argmax(axis=0), np.nan)
            source = f"columns '{splits[0]}' to '{splits[-1]}'"
        else:
            raise TableError(
                "the table names no folds",
                where=str(table.path),
                remedy=f"give it a column '{COLUMNS[0]}' with numbers from 0 on, or use 'crystalformers crossval'",
            )
        wrong = np.flatnonzero(~(found == np.floor(found)) | (found < 0))
        if len(wrong):
            raise TableError(f"{source}: row {wrong[0]} ({table.ids[wrong[0]]}) is in no fold", where=str(table.path))
        of_row = found.astype(np.int64)
        empty = np.setdiff1d(np.arange(of_row.max() + 1), of_row)
        if len(empty) or of_row.max() < 1:
            problem = f"fold {empty[0]} has no rows" if len(empty) else "there is only one fold"
            raise TableError(f"{source}: {problem}", where=str(table.path))
        return cls(of_row)

    def __len__(self) -> int:
        return int(self.of_row.max()) + 1

    def splits(self, fold: int, val_fraction: float, seed: int) -> dict[str, IntArray]:
        """Rows to train on, to validate on and to predict; those of the fold are in the last only."""
        test = np.flatnonzero(self.of_row == fold)
        others = np.random.default_rng(seed).permutation(np.flatnonzero(self.of_row != fold))
        n_val = max(1, round(val_fraction * len(others)))
        return {"train": np.sort(others[n_val:]), "val": np.sort(others[:n_val]), "test": test}


@dataclass
class FoldResults:
    """Predictions of the folds and seeds that are done.

    Attributes:
        target: what is predicted.
        rows: fold, id, member (the seed), label and prediction of each row and seed.
    """

    target: Target
    rows: list[dict[str, Any]] = field(default_factory=list)

    def errors(self) -> dict[int, dict[int, float]]:
        """Fold -> seed -> mean absolute error."""
        found: dict[int, dict[int, list[float]]] = {}
        for row in self.rows:
            seeds = found.setdefault(row["fold"], {})
            seeds.setdefault(row["member"], []).append(abs(row["prediction"] - row["label"]))
        return {fold: {seed: float(np.mean(off)) for seed, off in seeds.items()} for fold, seeds in found.items()}

    def means(self) -> dict[int, dict[str, tuple[float, float]]]:
        """Fold -> id -> label and the prediction's mean over seeds."""
        found: dict[int, dict[str, list[tuple[float, float]]]] = {}
        for row in self.rows:
            found.setdefault(row["fold"], {}).setdefault(row["id"], []).append((row["label"], row["prediction"]))
        return {
            fold: {name: (pairs[0][0], float(np.mean([p for _, p in pairs]))) for name, pairs in rows.items()}
            for fold, rows in found.items()
        }

    def summary(self) -> dict[str, Any]:
        """Errors of each fold and seed, their mean over folds, and that of the mean of all seeds."""
        errors, means = self.errors(), self.means()
        of_mean = {fold: float(np.mean([abs(y - p) for y, p in rows.values()])) for fold, rows in means.items()}
        seeds = sorted({seed for found in errors.values() for seed in found})
        complete = [seed for seed in seeds if all(seed in found for found in errors.values())]
        over_folds = {seed: float(np.mean([found[seed] for found in errors.values()])) for seed in complete}
        return {
            "target": self.target.name,
            "unit": self.target.unit,
            "folds": sorted(errors),
            "mae": {str(fold): {str(seed): error for seed, error in found.items()} for fold, found in errors.items()},
            "mean_over_folds": {str(seed): error for seed, error in over_folds.items()},
            "mae_of_mean": {str(fold): error for fold, error in of_mean.items()},
            "mean_over_folds_of_mean": float(np.mean(list(of_mean.values()))),
        }

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Replace `PREDICTIONS` and `RESULT`."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / PREDICTIONS) as temporary:
            pq.write_table(pa.Table.from_pylist(self.rows), temporary)
        write_json(folder / RESULT, {**self.summary(), **about})


def run_folds(
    table: CrystalTable,
    target: Target,
    output: Path,
    recipe: Recipe,
    *,
    folds: Sequence[int] | None = None,
    seeds: int = 1,
    resume: bool = False,
    observer: Observer | None = None,
    done: Callable[[int, int, float], None] = lambda *_: None,
) -> FoldResults:
    """Train and predict every fold with every seed; write what is done after each.

    Args:
        table: crystals with the label and their folds.
        target: what to learn.
        output: folder; the run of a fold and seed is in `fold-F/seed-S`.
        recipe: settings; the first seed is that of the recipe.
        folds: which; default: all.
        seeds: number of trainings of each fold.
        resume: go on with runs that are there.
        observer: of each training.
        done: told fold, seed and error after each.

    Raises:
        TableError: if the table names no folds, or a row of one has no label or no usable structure: errors over
            fewer rows would not compare.
        ConfigError: if a fold is unknown, there are runs that are not to be resumed, or that have another recipe.
        TrainingInterrupted: after SIGINT or SIGTERM; the state is saved.
        CrystalformersError: as `fit` raises it.
    """
    divided = Folds.of(table)
    labels = _labels(table, target)
    chosen = list(range(len(divided))) if folds is None else list(folds)
    unknown = [fold for fold in chosen if not 0 <= fold < len(divided)]
    if unknown or not chosen or seeds < 1:
        problem = f"there is no fold {unknown[0]}" if unknown else "there is no fold or seed to train"
        raise ConfigError(problem, remedy=f"choose from 0 to {len(divided) - 1}, and at least one seed")
    recipes = {seed: recipe.model_copy(update={"seed": seed}) for seed in range(recipe.seed, recipe.seed + seeds)}
    runs = {(fold, seed): output / f"fold-{fold}" / f"seed-{seed}" for seed in recipes for fold in chosen}
    for (_, seed), run in runs.items():
        RunFolder(run).check_free(recipes[seed], resume=resume)
    results = FoldResults(target)
    inits: dict[str, Any] = {}
    about = {"recipe": recipe.model_dump(mode="json"), "data": table.fingerprint, "inits": inits}
    for (fold, seed), run in runs.items():
        splits = divided.splits(fold, recipe.val_fraction, recipe.seed_of_split)
        fit(table, [target], run, recipes[seed], resume=True, observer=observer, splits=splits)
        predicted = _predictions(run, table, splits["test"])
        test = splits["test"].tolist()
        results.rows += [
            {"fold": fold, "id": table.ids[row], "member": seed, "label": float(labels[row]), "prediction": value}
            for row, value in zip(test, predicted.tolist(), strict=True)
        ]
        if init := load_model(run).card.get("init"):
            inits[f"fold-{fold}/seed-{seed}"] = init
        results.write(output, about)
        done(fold, seed, float(np.abs(predicted - labels[splits["test"]]).mean()))
    return results


def _labels(table: CrystalTable, target: Target) -> NDArray[np.float64]:
    """Labels of all rows, (rows,); TableError if a row has none or no usable structure."""
    labels, rejected = table.labels(target.name), table.check_rows()
    missing = np.flatnonzero(~np.isfinite(labels))
    if rejected or len(missing):
        row = min([*rejected, *missing.tolist()])
        reason = rejected[row].reason if row in rejected else f"it has no {target.name}"
        raise TableError(
            f"row {row} ({table.ids[row]}) cannot be used ({reason})",
            where=str(table.path),
            remedy="correct it or take it out: every row of a fold must be predicted",
        )
    return labels


def _predictions(run: Path, table: CrystalTable, rows: IntArray) -> NDArray[np.float64]:
    """What a finished run predicts for rows, (F,)."""
    model = load_model(run)
    return model.values([table[row] for row in rows.tolist()])[:, 0]
