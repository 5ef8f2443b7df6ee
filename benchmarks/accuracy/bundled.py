"""Errors of the bundled models on the test split of the Materials Project table: the figures of the README."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import RESULTS, print_table, shared, versions, write_results
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
        "rejected": len(evaluation.rejected),
        "scores": [asdict(score) for score in evaluation.scores],
    }
    return report, evaluation


def predictions_csv(evaluation: Evaluation) -> bytes:
    """Ids and predicted values, nothing that belongs to the data."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *(header(score.target, score.unit) for score in evaluation.scores)])
    for name, values in zip(evaluation.ids, evaluation.predictions.tolist(), strict=True):
        writer.writerow([name, *(f"{value:.6g}" for value in values)])
    return text.getvalue().encode()


def print_scores(reports: Sequence[dict[str, Any]]) -> None:
    rows = []
    for report in reports:
        for score in report["scores"]:
            numbers = [score[key] for key in ("mae", "rmse", "r2", "baseline_mae")]
            cells = ["-" if number is None else f"{number:.3f}" for number in numbers]
            rows.append([report["model"], f"{score['target']} ({score['unit']})", f"{score['n']:,}", *cells])
    print_table(["model", "property", "crystals", "MAE", "RMSE", "R²", "MAE of the mean"], rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", action="append", help="bundled name, run folder or weight file; repeatable")
    parser.add_argument("--table", type=Path, default=shared() / "data" / "mp36k.parquet")
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", type=Path, default=RESULTS / "accuracy.json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    names = given.model or bundled.names()
    if not names:
        raise SystemExit("NOT MEASURED: no model is bundled; name a run folder or weight file with -m.")
    if not given.table.is_file():
        raise SystemExit(f"NOT MEASURED: {given.table.name} was not found; name a labelled table with --table.")
    table = open_table(given.table)
    reports = []
    for name in names:
        model = load_model(name)
        report, evaluation = measure(model, table, given.split)
        reports.append(report)
        predictions = given.output.with_name(f"predictions-{Path(report['model']).stem}.csv")
        write_atomically(predictions, predictions_csv(evaluation))
    print_scores(reports)
    data = {"file": given.table.name, "fingerprint": table.fingerprint, "split": given.split}
    packages = versions("crystalformers", "torch", "numpy")
    write_results(given.output, {"table": data, "versions": packages, "models": reports})


if __name__ == "__main__":
    main()
