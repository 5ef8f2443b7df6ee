"""Errors of the bundled model on crystals of another database, which its training never saw.

    python -m benchmarks.accuracy.outside [--table oqmd_a3bc.parquet] [--trained-on mp36k.parquet]

Labels of another database come from other settings of density functional theory and other reference energies, so part
of the error is a difference between the databases. Crystals whose composition the training knew are also counted apart.
Nothing here is random. Writes benchmarks/results/accuracy-outside.json and prints the table.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.bundled import measure, print_scores
from benchmarks.harness import RESULTS, parser, shared, write_results
from crystalformers import Model, load_model, open_table
from crystalformers.data.table import CrystalTable
from crystalformers.prediction.evaluation import Evaluation, score
from crystalformers.training.exclusion import composition

DATA = shared() / "data"


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--table", type=Path, default=DATA / "oqmd_a3bc.parquet", help="labelled crystals from elsewhere"
    )
    options.add_argument("--trained-on", type=Path, default=DATA / "mp36k.parquet", help="table of the training")
    given = options.parse_args()
    for path in (given.table, given.trained_on):
        if not path.is_file():
            raise SystemExit(f"NOT MEASURED: {path.name} was not found; name it on the command line.")
    table, training = open_table(given.table), open_table(given.trained_on)
    model = load_model()
    report, evaluation = measure(model, table, "all")
    known = is_known(table, evaluation.ids, training)
    report["training_seed"] = model.card["recipe"]["seed"]
    report["mean_difference"] = mean_difference(evaluation)
    report["labels"] = {"here": about_labels(table, evaluation), "training table": about_labels(training, evaluation)}
    report["composition_known"] = scores(model, evaluation, known)
    report["composition_new"] = scores(model, evaluation, ~known)
    print_scores(
        [report, *({"model": name, "scores": report[name]} for name in ("composition_known", "composition_new"))]
    )
    data = {"file": given.table.name, "fingerprint": table.fingerprint, "split": "all"}
    write_results(RESULTS / "accuracy-outside.json", {"table": data, "models": [report]})


def is_known(table: CrystalTable, ids: list[str], training: CrystalTable) -> NDArray[np.bool_]:
    """Whether a training crystal has the same reduced composition, for each of these rows."""
    assert training.split is not None
    learned = {composition(training.numbers(row)) for row, split in enumerate(training.split) if split == "train"}
    row_of = {name: row for row, name in enumerate(table.ids)}
    return np.array([composition(table.numbers(row_of[name])) in learned for name in ids])


def scores(model: Model, evaluation: Evaluation, chosen: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Errors over some of the evaluated rows."""
    targets = {target.name: target for target in model.targets}
    found = []
    for k, whole in enumerate(evaluation.scores):
        mean = targets[whole.target].physical(np.zeros(1), np.ones(1, dtype=np.int64))
        labels, predictions = evaluation.labels[chosen, k], evaluation.predictions[chosen, k]
        found.append(asdict(score(whole.target, whole.unit, labels, predictions, np.full(len(labels), mean[0]))))
    return found


def mean_difference(evaluation: Evaluation) -> dict[str, float]:
    """Mean of prediction minus label, by target."""
    difference = np.nanmean(evaluation.predictions - evaluation.labels, axis=0)
    return {whole.target: float(value) for whole, value in zip(evaluation.scores, difference, strict=True)}


def about_labels(table: CrystalTable, evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """How the labels of a table are distributed, by target; the mean of |label| is the error of always answering 0."""
    labels = {whole.target: table.labels(whole.target) for whole in evaluation.scores}
    return {
        name: {"share_positive": float(np.mean(values > 0)), "mean_absolute": float(np.nanmean(np.abs(values)))}
        for name, values in labels.items()
    }


if __name__ == "__main__":
    main()
