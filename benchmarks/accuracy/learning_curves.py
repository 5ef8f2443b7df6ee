"""How errors fall with the number of training rows.

    python -m benchmarks.accuracy.learning_curves                 # what is missing, small tables first
    python -m benchmarks.accuracy.learning_curves --rows 1000 3000
    python -m benchmarks.accuracy.learning_curves --table         # errors and exponents into docs/accuracy.md

Sizes, budget and models are in `learning_curves.yaml`. A smaller table is a part of a larger one; validation and test
rows are the same for all, and choose nothing. Models of other libraries are trained on the same rows by `baselines.py`,
and stand in the same table. One line of JSON a run in benchmarks/results/accuracy/learning-curves.jsonl. Run folders,
which go on where they were stopped, are in runs/learning-curves.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.accuracy.claims import CLAIMS, trained, write_table
from benchmarks.harness import RESULTS, ROOT, epochs_for, machine, parser, record, recorded, versions
from benchmarks.pages import ComputedTable

SETTINGS = Path(__file__).with_suffix(".yaml")
RUNS = ROOT / "runs" / "learning-curves"
OUT = RESULTS / "accuracy" / "learning-curves.jsonl"
BASELINES = OUT.with_name("baselines.jsonl")
TABLE = ComputedTable("accuracy.md", "learning-curves", "accuracy/learning_curves.py")

Errors = dict[tuple[str, str], dict[int, list[float]]]
"""Test errors of each seed by model and target, then by training rows."""


def settings() -> dict[str, Any]:
    """Sizes, budget and models."""
    known: dict[str, Any] = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    return known


def recipe_for(known: dict[str, Any], name: str, rows: int) -> dict[str, Any]:
    """The recipe of a model for so many rows: fewer of them are passed more often."""
    epochs = epochs_for(rows, known["recipe"]["batch_size"], known["epochs"], known["least_steps"])
    return {**known["recipe"], **known["models"][name], "epochs": epochs, "average_epochs": epochs // 4}


def finished(known: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured here, and those runs of `claims.py` that had the same rows and recipe."""
    data = {key: value for key, value in CLAIMS.settings["data"].items() if key != "training"}
    rows, claimed = CLAIMS.settings["data"]["training"], CLAIMS.rows() if data == known["data"] else []
    same = [
        {**run, "model": name}
        for name in known["models"]
        for run in claimed
        if run["settings"] == recipe_for(known, name, rows)
    ]
    return recorded(OUT) + same


def errors() -> Errors:
    """Of all models, those of other libraries among them."""
    known, found = settings(), defaultdict[tuple[str, str], dict[int, list[float]]](dict)
    for run in finished(known):
        for target, measured in run["errors"].items():
            found[run["model"], target].setdefault(run["rows"]["train"], []).append(measured["averaged"]["test"])
    for run in recorded(BASELINES):
        found[run["model"], run["target"]].setdefault(run["rows"], []).append(run["errors"]["test"])
    return found


def exponent(by_rows: dict[int, list[float]]) -> float:
    """By least squares: log error falls by this times the logarithm of the rows, of the means over seeds."""
    slope, _ = np.polyfit(np.log(list(by_rows)), np.log([np.mean(each) for each in by_rows.values()]), 1)
    return -float(slope)


def errors_table(found: Errors) -> str:
    """Mean test errors over seeds by number of rows, with the exponent where there are three sizes or more."""
    sizes = sorted({rows for by_rows in found.values() for rows in by_rows})
    lines = [f"|  | {' | '.join(f'{size:,}' for size in sizes)} | exponent |", "|---" * (len(sizes) + 2) + "|"]
    units = {target["name"]: target["unit"] for target in settings()["data"]["targets"]}
    for target, unit in units.items():
        for name in sorted({model for model, learned in found if learned == target}):
            by_rows = found[name, target]
            cells = [f"{np.mean(by_rows[size]):.3f}" if size in by_rows else "–" for size in sizes]
            fitted = f"{exponent(by_rows):.2f}" if len(by_rows) > 2 else ""
            lines.append(f"| {name}, {target.replace('_', ' ')} ({unit}) | {' | '.join(cells)} | {fitted} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing."""
    known = settings()
    options = parser(__doc__)
    options.add_argument("--only", nargs="*", choices=known["models"], default=list(known["models"]), metavar="MODEL")
    options.add_argument("--rows", type=int, nargs="*", choices=known["rows"], default=known["rows"])
    options.add_argument("--seeds", type=int, nargs="*", default=known["seeds"])
    options.add_argument("--table", action="store_true", help="put what was measured into the page that has it")
    given = options.parse_args()
    if given.table:
        TABLE.write(errors_table(errors()))
        return
    torch.set_num_threads(known["recipe"]["threads"])
    done = [(run["model"], run["rows"]["train"], run["seed"]) for run in finished(known)]
    for rows in given.rows:
        for name in given.only:
            for seed in given.seeds:
                if (name, rows, seed) in done:
                    continue
                table, recipe = RUNS / f"{known['data']['table']}-{rows}.parquet", recipe_for(known, name, rows)
                if not table.exists():
                    write_table(table, {**known["data"], "training": rows})
                folder = RUNS / f"{name.replace(' ', '-')}-{rows}-seed{seed}"
                found = trained(table, known["data"]["targets"], folder, {**recipe, "seed": seed})
                about = {"settings": recipe, "machine": machine(), "versions": versions()}
                record(OUT, {"model": name, "seed": seed, **found, **about})
                print(f"{name} {rows} rows seed {seed}: {found['errors']} in {found['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
