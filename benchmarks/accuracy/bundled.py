"""Errors of the bundled model on the test split of the Materials Project table: the figures of the README.

    python -m benchmarks.accuracy.bundled                                     # the default model
    python -m benchmarks.accuracy.bundled -m ONE -m OTHER -o NAME.json        # each of several, and their mean

Predictions are written beside the errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.harness import RESULTS, parser, print_table, shared, write_results
from crystalformers import evaluate_model, load_model, open_table
from crystalformers.files import write_atomically
from crystalformers.prediction import bundled
from crystalformers.prediction.rows import header

if TYPE_CHECKING:
    from crystalformers import Model
    from crystalformers.data.table import CrystalTable
    from crystalformers.prediction.evaluation import Evaluation


def measure(model: Model, table: CrystalTable, split: str) -> tuple[dict[str, Any], Evaluation]:
    """Errors of a model's targets with what they were measured on, and the evaluation itself."""
    evaluation = evaluate_model(model, table, split)
    report = {
        "model": Path(model.name).name,
        "sha256": model.fingerprint,
        "tolerance": model.tolerance,
        "trained_on": model.card.get("data", {}),
        **errors(evaluation),
    }
    return report, evaluation


def errors(evaluation: Evaluation) -> dict[str, Any]:
    """What was measured."""
    return {"rejected": len(evaluation.rejected), "scores": [asdict(score) for score in evaluation.scores]}


def predictions_csv(evaluation: Evaluation) -> bytes:
    """Ids and predicted values, nothing that belongs to the data."""
    columns = [header(score.target, score.unit) for score in evaluation.scores]
    frame = pd.DataFrame(evaluation.predictions, pd.Index(evaluation.ids, name="id"), columns)
    return frame.to_csv(float_format="%.6g", na_rep="nan", lineterminator="\n").encode()


def print_scores(reports: Sequence[dict[str, Any]]) -> None:
    rows = []
    for report in reports:
        for score in report["scores"]:
            numbers = [score[key] for key in ("mae", "rmse", "r2", "baseline_mae")]
            cells = ["-" if number is None else f"{number:.3f}" for number in numbers]
            rows.append([report["model"], f"{score['target']} ({score['unit']})", f"{score['n']:,}", *cells])
    print_table(["model", "property", "crystals", "MAE", "RMSE", "R²", "MAE of the mean"], rows)


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument(
        "-m",
        "--model",
        action="append",
        help=f"bundled name, run folder or weight file; repeatable; default: {bundled.DEFAULT}",
    )
    options.add_argument("--table", type=Path, default=shared() / "data" / "mp36k.parquet")
    options.add_argument("--split", default="test")
    options.add_argument("-o", "--output", type=Path, default=RESULTS / "accuracy.json")
    return options.parse_args()


def main() -> None:
    given = arguments()
    if not given.table.is_file():
        raise SystemExit(f"NOT MEASURED: {given.table.name} was not found; name a labelled table with --table.")
    table = open_table(given.table)
    reports, names = [], given.model or [bundled.DEFAULT]
    for name in names:
        model = load_model(name)
        report, evaluation = measure(model, table, given.split)
        reports.append(report)
        predictions = given.output.with_name(f"predictions-{Path(report['model']).stem}.csv")
        write_atomically(predictions, predictions_csv(evaluation))
    if len(names) > 1:
        together = evaluate_model(load_model(names), table, given.split)
        reports.append({"model": f"mean of {' and '.join(report['model'] for report in reports)}", **errors(together)})
    print_scores(reports)
    data = {"file": given.table.name, "fingerprint": table.fingerprint, "split": given.split}
    write_results(given.output, {"table": data, "models": reports})


if __name__ == "__main__":
    main()
