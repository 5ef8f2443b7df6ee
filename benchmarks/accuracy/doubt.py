"""How often the intervals of a bundled model hold, and how much more it errs for crystals with a flag.

    python -m benchmarks.accuracy.doubt                                                # the default model
    python -m benchmarks.accuracy.doubt -m materials-project-ensemble -o doubt-ensemble.json

On the test rows of the table that it was trained on, on another database, and on both together. The other database has
other reference energies of the elements: errors in the formation energy are given with its labels as they are, and with
labels moved to the references of the training table by `label_differences`. Nothing here is random; calibration and
flags were fixed by training and validation rows. Writes a file in benchmarks/results/accuracy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import RESULTS, parser, print_table, shared, write_results
from crystalformers import Model, evaluate_model, load_model, open_table
from crystalformers.data.table import CrystalTable
from crystalformers.periodic import SYMBOLS
from crystalformers.prediction.bundled import DEFAULT
from crystalformers.prediction.evaluation import DomainScore, Evaluation
from crystalformers.prediction.intervals import COVERAGES, measure
from crystalformers.prediction.model import network_outputs
from crystalformers.prediction.reference import FLAG_PERCENTILE

TABLES = {"like the training": ("mp36k", "test"), "another database": ("oqmd_a3bc", "all")}
"""Table and split."""

ALIGNED = "formation_energy_per_atom"
"""The property whose labels depend on reference energies of the elements."""

SAME_VOLUME = 0.05
"""Crystals of two tables with equal atoms count as the same one if their volumes differ by less than this share."""

PERCENTILES = (75.0, 80.0, 85.0, 90.0, 95.0, 97.0)
"""Thresholds of the flag, as of `--flag-percentile`, that are compared."""

FEWEST_PAIRS = 5
"""An element's offset needs so many crystals that both tables hold; otherwise it is taken to be zero."""


def coverage(model: Model, table: CrystalTable, evaluation: Evaluation) -> dict[str, list[dict[str, float | int]]]:
    """By target, what `intervals.measure` gives at each of `COVERAGES` that the calibration has enough rows for."""
    row_of = {name: row for row, name in enumerate(table.ids)}
    crystals = [table[row_of[name]] for name in evaluation.ids]
    found: dict[str, list[dict[str, float | int]]] = {score.target: [] for score in evaluation.scores}
    (outputs,) = network_outputs([model], crystals)
    for level in COVERAGES:
        if not all(one.allows(level) for one in model.calibration.values()):
            continue
        estimates = model.estimates_from(outputs, crystals, model.levels(level), FLAG_PERCENTILE)
        for k, score in enumerate(evaluation.scores):
            column = list(model.units).index(score.target)
            low, high = estimates["low"][:, column], estimates["high"][:, column]
            found[score.target].append({"coverage": level, **measure(evaluation.labels[:, k], low, high)})
    return found


def by_flag(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Errors without and with a flag, over all rows of some evaluations."""
    outside = np.concatenate([np.array([bool(flag) for flag in one.flags]) for one in evaluations])
    off: NDArray[np.float64] = np.concatenate([np.abs(one.predictions - one.labels) for one in evaluations])
    scores = evaluations[0].scores
    return [asdict(DomainScore.of(score, off[:, k], outside)) for k, score in enumerate(scores)]


def flagged_at(model: Model, table: CrystalTable, evaluation: Evaluation) -> dict[float, Evaluation]:
    """The evaluation with the flags of each of `PERCENTILES`."""
    row_of = {name: row for row, name in enumerate(table.ids)}
    crystals = [table[row_of[name]] for name in evaluation.ids]
    (outputs,) = network_outputs([model], crystals)
    return {
        at: replace(evaluation, flags=model.estimates_from(outputs, crystals, {}, at)["flag"].tolist())
        for at in PERCENTILES
    }


def label_differences(table: CrystalTable, training: CrystalTable) -> dict[int, list[float]]:
    """How much higher the labels `ALIGNED` of a table would be with the reference energies of another, eV per atom.

    For each atomic number: the differences of the labels of crystals that both tables hold and that have more atoms of
    this element than of any other, per atom of it. Their median is the offset. No model takes part.
    """
    here, there = table.labels(ALIGNED), training.labels(ALIGNED)
    rows_of = defaultdict(list)
    for row in range(len(training)):
        rows_of[tuple(sorted(training.numbers(row).tolist()))].append(row)
    found = defaultdict(list)
    for row in range(len(table)):
        numbers = sorted(table.numbers(row).tolist())
        for twin in rows_of[tuple(numbers)]:
            if abs(table[row].volume / training[twin].volume - 1) < SAME_VOLUME:
                (z, count), *_ = Counter(numbers).most_common(1)
                found[z].append((there[twin] - here[row]) * len(numbers) / count)
    return {z: values for z, values in sorted(found.items()) if len(values) >= FEWEST_PAIRS}


def with_offsets(evaluation: Evaluation, table: CrystalTable, offsets: dict[int, float]) -> Evaluation:
    """The same predictions beside labels `ALIGNED` moved by the offsets of their elements."""
    row_of = {name: row for row, name in enumerate(table.ids)}
    shift = [
        sum(offsets.get(z, 0.0) for z in numbers) / len(numbers)
        for numbers in (table.numbers(row_of[name]).tolist() for name in evaluation.ids)
    ]
    column = [score.target == ALIGNED for score in evaluation.scores]
    return replace(evaluation, labels=evaluation.labels + np.outer(shift, column))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=shared() / "data", help="folder of the tables")
    options.add_argument("-m", "--model", default=DEFAULT)
    options.add_argument("-o", "--output", default="doubt.json")
    given = options.parse_args()
    model = load_model(given.model)
    evaluations: list[Evaluation] = []
    tables: list[CrystalTable] = []
    report: dict[str, Any] = {"model": model.name, "sha256": model.fingerprint, "tables": {}}
    for name, (file, split) in TABLES.items():
        path = given.data / f"{file}.parquet"
        if not path.is_file():
            raise SystemExit(f"NOT MEASURED: {path.name} was not found.")
        table = open_table(path)
        tables.append(table)
        evaluations.append(evaluate_model(model, table, split))
        about = {"file": path.name, "fingerprint": table.fingerprint, "split": split}
        intervals = coverage(model, table, evaluations[-1])
        report["tables"][name] = {**about, "coverage": intervals, "by_flag": by_flag(evaluations[-1:])}
    report["tables"]["both"] = {"by_flag": by_flag(evaluations)}
    like, other = evaluations
    pairs = label_differences(tables[1], tables[0])
    offsets = {z: float(np.median(values)) for z, values in pairs.items()}
    moved = with_offsets(other, tables[1], offsets)
    report["label_offsets"] = {
        SYMBOLS[z - 1]: {"median": offsets[z], "crystals": len(values)} for z, values in pairs.items()
    }
    report["tables"]["another database, labels moved"] = {"by_flag": by_flag([moved])}
    report["tables"]["both, labels moved"] = {"by_flag": by_flag([like, moved])}
    validation = flagged_at(model, tables[0], evaluate_model(model, tables[0], "val"))
    test, elsewhere = flagged_at(model, tables[0], like), flagged_at(model, tables[1], moved)
    report["thresholds"] = [
        {
            "flag_percentile": at,
            "tables": {
                "validation rows of mp36k": {"by_flag": by_flag([validation[at]])},
                "like the training": {"by_flag": by_flag([test[at]])},
                "another database, labels moved": {"by_flag": by_flag([elsewhere[at]])},
                "both, labels moved": {"by_flag": by_flag([test[at], elsewhere[at]])},
            },
        }
        for at in PERCENTILES
    ]
    headers = ["crystals", "property", "90 % interval holds", "flagged", "MAE without flag", "with flag", "ratio"]
    rows = []
    for name, found in report["tables"].items():
        for one in found["by_flag"]:
            held = [c["measured"] for c in found.get("coverage", {}).get(one["target"], []) if c["coverage"] == 0.9]
            share = one["n_outside"] / (one["n_inside"] + one["n_outside"])
            numbers = [one[key] for key in ("mae_inside", "mae_outside", "ratio")]
            rows.append(
                [name, f"{one['target']} ({one['unit']})", f"{held[0]:.3f}" if held else "-", f"{share:.1%}"]
                + [f"{number:.3g}" for number in numbers]
            )
    print_table(headers, rows)
    write_results(RESULTS / "accuracy" / given.output, report)


if __name__ == "__main__":
    main()
