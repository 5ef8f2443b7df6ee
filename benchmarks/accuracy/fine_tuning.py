"""Fine-tuning on small tables: settings chosen on development rows, then measured on test rows.

    python -m benchmarks.accuracy.fine_tuning choose  # errors on development rows, from which settings are chosen
    python -m benchmarks.accuracy.fine_tuning test    # errors on test rows, of the settings under `test`
    python -m benchmarks.accuracy.fine_tuning choose --table  # what was measured so far
    python -m benchmarks.accuracy.fine_tuning test --table    # likewise, and into docs/fine-tuning-results.md

Tasks, sizes and contenders are in `fine_tuning.yaml`. The rows of a task are divided once: test rows (fold 0 where
Matbench has folds), development rows, and a pool from which each seed draws its training rows, a tenth of them for
validation. `choose` never reads the test rows; for `test` the development rows belong to the pool. One line of JSON a
run in benchmarks/results/accuracy; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.accuracy.doubt import by_flag, coverage
from benchmarks.harness import RESULTS, ROOT, machine, print_table, recipe_of, record, recorded, shared, versions
from benchmarks.pages import ComputedTable
from crystalformers import Target, evaluate_model, fit, load_model, open_table
from crystalformers.elements import load_elements
from crystalformers.elements.composition import composition_features

Measured = Literal["choose", "test"]
Column = tuple[str, int, str]
"""Task, size and unit."""

RUNS = ROOT / "runs" / "fine-tuning"
OUT = RESULTS / "accuracy"
SETTINGS = Path(__file__).with_suffix(".yaml")
START = "scratch"
"""The contender that others are compared with."""

TABLE = ComputedTable("fine-tuning-results.md", "errors on test rows", "accuracy/fine_tuning.py")
COLUMNS = {
    START: "random weights",
    "flagship-seven": "without strained crystals",
    "tuned": "`mp36k-base`",
    "ridge-embeddings": "ridge, embeddings",
    "ridge-magpie": "ridge, Magpie",
}
"""Contenders in the table of the page."""


@dataclass(frozen=True)
class Task:
    """One property of one table.

    Attributes:
        table: file in the folder of data.
        target: what is learned.
        test: test rows, drawn at random; 0 where the table has folds.
        development: rows by which settings are chosen.
    """

    table: str
    target: Target
    test: int
    development: int

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Task:
        """From an entry under `tasks`."""
        return cls(
            settings["table"], Target(**settings["target"]), settings.get("test", 0), int(settings["development"])
        )

    def labelled(self) -> pa.Table:
        """All rows whose label can be learned."""
        table = pq.read_table(shared() / "data" / f"{self.table}.parquet")
        table = table.filter(pa.array(np.isfinite(table[self.target.name].to_numpy().astype(float))))
        if self.target.transform == "log10":
            table = table.filter(pa.array(table[self.target.name].to_numpy() > 0))
        return table

    def rows(self, measured: Measured, size: int, seed: int) -> pa.Table:
        """`size` rows to train and validate on and the rows to measure, with a column `split`."""
        table = self.labelled()
        order = np.random.default_rng(0).permutation(len(table))
        if "matbench_fold" in table.column_names:
            in_test = (table["matbench_fold"].to_numpy() == 0)[order]
            test, order = order[in_test], order[~in_test]
        else:
            test, order = order[: self.test], order[self.test :]
        development = order[: self.development]
        pool = order if measured == "test" else order[self.development :]
        drawn = np.random.default_rng(seed + 1).permutation(pool)[:size]
        validation = max(10, size // 10)
        parts = {
            "train": drawn[validation:],
            "val": drawn[:validation],
            "test": test if measured == "test" else development,
        }
        split = np.concatenate([[name] * len(rows) for name, rows in parts.items()])
        chosen = table.take(pa.array(np.concatenate(list(parts.values()))))
        return self.plain(chosen).append_column("split", pa.array(split))

    def plain(self, table: pa.Table) -> pa.Table:
        """The columns of a table that a run reads."""
        columns = ["id", "atomic_numbers", "lattice", "frac_coords", self.target.name]
        return table.select([name for name in columns if name in table.column_names])


def jobs(settings: dict[str, Any], measured: Measured) -> Iterator[tuple[str, int, int, str, dict[str, Any]]]:
    """Task, size, seed, contender and recipe of every run, plan by plan, one seed after the other."""
    for plan in settings[measured]:
        for seed, (task, sizes) in itertools.product(plan["seeds"], plan["tasks"].items()):
            for size, name in itertools.product(sizes, plan["contenders"]):
                yield task, size, seed, name, {**settings["all"], **settings["contenders"][name]}


def run(task_name: str, task: Task, measured: Measured, size: int, seed: int, name: str, recipe: dict[str, Any]) -> Any:
    """Train once; the error on the measured rows with everything needed to repeat it."""
    folder = RUNS / measured / f"{task_name}-{size}-{name}-seed{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = folder.parent / f"{task_name}-{size}-seed{seed}.parquet"
    if not table.exists():
        pq.write_table(task.rows(measured, size, seed), table)
    start = time.monotonic()
    errors = (
        ridge(table, task.target, recipe["ridge"])
        if "ridge" in recipe
        else train(table, task.target, folder, {**recipe, "seed": seed})
    )
    return {
        "task": task_name,
        "size": size,
        "seed": seed,
        "contender": name,
        "measured": "test rows" if measured == "test" else "development rows",
        "unit": task.target.unit,
        **errors,
        "seconds": round(time.monotonic() - start),
        "settings": recipe,
        "machine": machine(),
        "versions": versions(),
    }


def train(path: Path, target: Target, folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Rows, errors and the coverage of the intervals of a run, which goes on where it was stopped."""
    table = open_table(path)
    fit(table, [target], folder, recipe_of(recipe), resume=True)
    summary = json.loads((folder / "summary.json").read_text())
    model = load_model(folder)
    evaluation = evaluate_model(model, table, "test")
    return {
        "rows": summary["rows"],
        "mae": summary["errors"]["test"][target.name]["mae"],
        "val_mae": summary["errors"]["val"][target.name]["mae"],
        "best": summary["best"]["errors"]["test"][target.name]["mae"],
        "coverage": coverage(model, table, evaluation)[target.name],
        "by_flag": by_flag([evaluation]),
    }


def ridge(path: Path, target: Target, features: str) -> dict[str, Any]:
    """Linear regression on fixed features; its penalty by leave-one-out errors of training and validation rows.

    Args:
        path: table.
        target: what is learned, standardised as for training.
        features: ``magpie``: statistics of the elements' properties over the composition, and the volume per atom;
            otherwise a model whose embeddings they are.
    """
    table = open_table(path)
    crystals = list(table)
    if features == "magpie":
        formulas = [Counter(crystal.symbols) for crystal in crystals]
        volumes = np.array([[crystal.volume / len(crystal)] for crystal in crystals])
        columns = np.hstack([composition_features(formulas, load_elements("magpie")), volumes])
    else:
        columns = load_model(features).embed(crystals)
    labels, atoms = table.labels(target.name), table.n_atoms
    known = np.array(table.split) != "test"
    fitted = target.fitted(labels[known], atoms[known])
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 6, 37)))
    model.fit(columns[known], fitted.standardise(labels[known], atoms[known]))
    predicted = fitted.physical(model.predict(columns[~known]), atoms[~known])
    rows = {"train": int(known.sum()), "test": int((~known).sum())}
    return {"rows": rows, "mae": float(np.abs(predicted - labels[~known]).mean())}


def tasks() -> dict[str, Task]:
    """The tasks of the settings, by name."""
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    return {name: Task.of(task) for name, task in settings["tasks"].items()}


def results(measured: Measured) -> list[dict[str, Any]]:
    """The recorded runs."""
    return recorded(_results_file(measured))


def _results_file(measured: str) -> Path:
    return OUT / f"fine-tuning-{measured}.jsonl"


def _mean(errors: list[float], form: str = ".3g") -> str:
    spread = f" ± {np.std(errors, ddof=1):.2g} ({len(errors)})" if errors[1:] else ""
    return f"{np.mean(errors):{form}}{spread}"


def by_column(done: list[dict[str, Any]]) -> tuple[list[Column], dict[str, dict[Column, dict[int, float]]]]:
    """Tasks with their sizes and units, and the errors of each contender there, by seed."""
    columns = list(dict.fromkeys((row["task"], row["size"], row["unit"]) for row in done))
    found: dict[str, dict[Column, dict[int, float]]] = {}
    for row in done:
        place = (row["task"], row["size"], row["unit"])
        found.setdefault(row["contender"], {}).setdefault(place, {})[row["seed"]] = row["mae"]
    return columns, found


def ratios_to_start(found: dict[str, dict[Column, dict[int, float]]], name: str, column: Column) -> list[float]:
    """Errors of a contender in units of those of `START` with the same rows."""
    start = found.get(START, {}).get(column, {})
    return [mae / start[seed] for seed, mae in sorted(found[name].get(column, {}).items()) if seed in start]


def print_errors(done: list[dict[str, Any]]) -> None:
    """Errors, and their ratios to those of `START`: means and standard deviations over seeds.

    A line for each contender, a column for each task and size.
    """
    columns, found = by_column(done)
    errors, ratios = [], []
    for name, cells in found.items():
        errors.append([name, *(_mean(list(cells[column].values())) if column in cells else "-" for column in columns)])
        paired = [ratios_to_start(found, name, column) for column in columns]
        ratios.append([name, *(_mean(each, ".3f") if each else "-" for each in paired)])
    titles = [f"{task}, {size} rows ({unit})" for task, size, unit in columns]
    print_table(["error", *titles], errors)
    print_table([f"relative to {START}", *titles], ratios)


def errors_table(done: list[dict[str, Any]]) -> str:
    """The table of the page: means over the seeds of `START`, and the number of seeds where a contender has fewer."""
    columns, found = by_column(done)
    heads = ["table", "rows", "seeds", *COLUMNS.values(), "`mp36k-base` over random weights"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for task, size, unit in sorted(columns):
        seeds = found[START][task, size, unit].keys()
        cells = [f"{task} ({unit})", f"{size:,}", str(len(seeds))]
        for name in COLUMNS:
            errors = [mae for seed, mae in found.get(name, {}).get((task, size, unit), {}).items() if seed in seeds]
            fewer = f" ({len(errors)})" if len(errors) < len(seeds) else ""
            cells.append(f"{np.mean(errors):#.3g}".rstrip(".") + fewer if errors else "–")
        ratios = ratios_to_start(found, "tuned", (task, size, unit)) if "tuned" in found else []
        spread = f" ± {np.std(ratios, ddof=1):.2f}" if ratios[1:] else ""
        cells.append(f"{np.mean(ratios):.2f}{spread}" if ratios else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing."""
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["choose", "test"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="*", help="only these of the seeds")
    parser.add_argument("--only", nargs="*", choices=settings["contenders"], help="only these contenders")
    parser.add_argument("--tasks", nargs="*", choices=settings["tasks"], help="only these tasks")
    parser.add_argument("--sizes", type=int, nargs="*", help="only so many rows")
    parser.add_argument("--table", action="store_true", help="show what was measured, and measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    done = results(given.action)
    if given.table:
        print_errors(done)
        if given.action == "test":
            TABLE.write(errors_table(done))
        return
    finished = [(row["task"], row["size"], row["seed"], row["settings"]) for row in done]
    for name, size, seed, contender, recipe in jobs(settings, given.action):
        choices = ((contender, given.only), (name, given.tasks), (size, given.sizes), (seed, given.seeds))
        asked = all(chosen is None or value in chosen for value, chosen in choices)
        if (name, size, seed, recipe) in finished or not asked:
            continue
        row = run(name, tasks()[name], given.action, size, seed, contender, recipe)
        record(_results_file(given.action), row)
        print(
            f"{name} {size} seed {seed} {contender}: {row['mae']:.4g} {row['unit']} in {row['seconds']} s", flush=True
        )


if __name__ == "__main__":
    main()
