"""Contenders with the same rows, budget and seeds: the papers' central claims, and settings of the training.

    python -m benchmarks.accuracy.claims                       # what is missing, seed by seed
    python -m benchmarks.accuracy.claims --only max "no frames"
    python -m benchmarks.accuracy.claims --table               # errors and paired differences into docs/claims.md
    python -m benchmarks.accuracy.claims claims-perovskites    # frames on perovskites; both also with -adamw
    python -m benchmarks.accuracy.claims settings              # optimiser, learning rate, batch, loss and so on
    python -m benchmarks.accuracy.claims architectures         # the optimiser of CGCNN and the other models

Contenders, budget and data of each question are in a file of its name here (`claims.yaml`). Both weights of a run are
measured on the test rows, those averaged over the last epochs and those of the best validation epoch; neither is chosen
by them. Settings are compared by their errors on validation rows. One line of JSON a run in
benchmarks/results/accuracy (claims.jsonl); run folders, which go on where they were stopped, are in runs (runs/claims).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.harness import RESULTS, ROOT, machine, parser, recipe_of, record, recorded, shared, versions
from benchmarks.pages import ComputedTable
from crystalformers import Target, fit, open_table

PAGES = {
    "claims": "claims.md",
    "claims-adamw": "claims.md",
    "claims-perovskites": "claims.md",
    "claims-perovskites-adamw": "claims.md",
    "settings": "accuracy.md",
    "architectures": "accuracy.md",
}
QUESTIONS = tuple(PAGES)


@dataclass(frozen=True)
class Comparison:
    """Contenders of one question.

    Attributes:
        name: of its files, one of `QUESTIONS`.
    """

    name: str

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Data, seeds, budget, and the contenders as changes of it."""
        path = Path(__file__).with_name(f"{self.name}.yaml")
        settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return settings

    @property
    def contenders(self) -> list[str]:
        """Their names."""
        return list(self.settings["contenders"])

    def baseline_of(self, name: str) -> str:
        """The contender that one is compared with: the first with the same architecture."""
        architecture = self.recipe_of(name).get("architecture")
        return next(one for one in self.contenders if self.recipe_of(one).get("architecture") == architecture)

    @property
    def targets(self) -> list[dict[str, Any]]:
        """What is learned."""
        targets: list[dict[str, Any]] = self.settings["data"]["targets"]
        return targets

    @property
    def path(self) -> Path:
        """The file of results."""
        return RESULTS / "accuracy" / f"{self.name}.jsonl"

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return ROOT / "runs" / self.name

    @property
    def table(self) -> ComputedTable:
        """Where a page has its errors."""
        return ComputedTable(PAGES[self.name], self.name, "accuracy/claims.py")

    def rows(self) -> list[dict[str, Any]]:
        """Its runs, with those of other questions that had the same data and recipe as one of its contenders."""
        rows = recorded(self.path)
        for other in (Comparison(name) for name in QUESTIONS if name != self.name):
            if other.settings["data"] == self.settings["data"]:
                for name in self.contenders:
                    same = (row for row in recorded(other.path) if self._is_run_of(name, row))
                    rows += [{**row, "contender": name} for row in same]
        return rows

    def _is_run_of(self, name: str, row: dict[str, Any]) -> bool:
        learned = [target["name"] for target in self.targets_of(name)]
        return bool(row["settings"] == self.recipe_of(name) and list(row["errors"]) == learned)

    def recipe_of(self, name: str) -> dict[str, Any]:
        """The settings of a contender."""
        changes = {key: value for key, value in self.settings["contenders"][name].items() if key != "targets"}
        return {**self.settings["recipe"], **changes}

    def targets_of(self, name: str) -> list[dict[str, Any]]:
        """What a contender learns: all, or those that it names."""
        names = self.settings["contenders"][name].get("targets")
        return [target for target in self.targets if names is None or target["name"] in names]


CLAIMS = Comparison("claims")


def write_table(path: Path, data: dict[str, Any]) -> None:
    """The rows of the data with their split; of the training rows all, or so many as `training` says.

    Of a task of Matbench the test rows of fold 0 are left out, and a tenth each of the others validates and tests.
    """
    table = pq.read_table(shared() / "data" / f"{data['table']}.parquet")
    rng = np.random.default_rng(0)
    if "matbench_fold" in table.column_names:
        table = table.filter(pc.not_equal(table["matbench_fold"], 0))
        drawn, tenth = rng.permutation(len(table)), len(table) // 10
        split = np.full(len(table), "train", dtype=object)
        split[drawn[:tenth]], split[drawn[tenth : 2 * tenth]] = "val", "test"
        table = table.append_column("split", pa.array(split.tolist()))
    split = np.array(table["split"].to_pylist())
    training = rng.permutation(np.flatnonzero(split == "train"))[: data.get("training")]
    rows = np.sort(np.concatenate([training, np.flatnonzero(split != "train")]))
    names = ["id", "atomic_numbers", "lattice", "frac_coords", "split", *(one["name"] for one in data["targets"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.select(names).take(pa.array(rows)), path)


def trained(table: Path, targets: list[dict[str, Any]], folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Train on a table, or go on with it; the errors of both weights, with rows and time."""
    start = time.monotonic()
    learned = [Target(**target) for target in targets]
    fit(open_table(table), learned, folder, recipe_of(recipe), resume=True)
    summary = json.loads((folder / "summary.json").read_text())
    measured = {"averaged": summary["errors"], "best": summary["best"]["errors"]}
    errors = {
        target.name: {
            weights: {split: found[split][target.name]["mae"] for split in ("val", "test")}
            for weights, found in measured.items()
        }
        for target in learned
    }
    return {"errors": errors, "rows": summary["rows"], "seconds": round(time.monotonic() - start)}


def run(comparison: Comparison, name: str, seed: int) -> dict[str, Any]:
    """Train one contender; its errors with everything needed to repeat it."""
    data, recipe = comparison.settings["data"], comparison.recipe_of(name)
    path = comparison.runs / f"{data['table']}-{data.get('training', 'all')}.parquet"
    folder = comparison.runs / f"{name.replace(' ', '-')}-seed{seed}"
    if not path.exists():
        write_table(path, data)
    found = trained(path, comparison.targets_of(name), folder, {**recipe, "seed": seed})
    about = {"settings": recipe, "machine": machine(), "versions": versions()}
    return {"contender": name, "seed": seed, **found, **about}


def error_of(row: dict[str, Any], target: str, weights: str = "averaged", split: str = "test") -> float:
    """Mean absolute error of a run."""
    return float(row["errors"][target][weights][split])


def of_contender(done: list[dict[str, Any]], name: str, target: str) -> list[dict[str, Any]]:
    """The runs of a contender that learned a target."""
    return [row for row in done if row["contender"] == name and target in row["errors"]]


def paired_changes(
    done: list[dict[str, Any]], name: str, target: str, split: str = "test", comparison: Comparison = CLAIMS
) -> list[float]:
    """How much more a contender errs than the one it is compared with, by seed, in per cent."""

    def by_seed(contender: str) -> dict[int, float]:
        return {row["seed"]: error_of(row, target, split=split) for row in of_contender(done, contender, target)}

    before, own = by_seed(comparison.baseline_of(name)), by_seed(name)
    return [100 * (own[seed] / before[seed] - 1) for seed in sorted(own.keys() & before.keys())]


def errors_table(done: list[dict[str, Any]], comparison: Comparison) -> str:
    """Test errors by weights, and the paired change against `baseline_of`: mean and standard deviation over seeds."""

    def spread(values: list[float], form: str) -> str:
        return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):.2g}" if values[1:] else "")

    heads, against = ["", "seeds"], comparison.settings.get("against", comparison.contenders[0])
    for target in comparison.targets:
        heads += [
            f"{target['name'].replace('_', ' ')} ({target['unit']})",
            "best epoch",
            f"against {against}",
            "on validation rows",
        ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in comparison.contenders:
        if not (seeds := sum(row["contender"] == name for row in done)):
            continue
        cells = [name, str(seeds)]
        for target in [known["name"] for known in comparison.targets]:
            own = of_contender(done, name, target)
            for weights in ("averaged", "best"):
                cells.append(spread([error_of(row, target, weights) for row in own], ".4f") if own else "")
            for split in ("test", "val"):
                paired = paired_changes(done, name, target, split, comparison)
                is_baseline = name == comparison.baseline_of(name)
                cells.append(f"{spread(paired, '+.1f')} %" if paired and not is_baseline else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing."""
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("question", nargs="?", choices=QUESTIONS, default="claims")
    options.add_argument("--only", nargs="*", metavar="CONTENDER", help="only these contenders")
    options.add_argument("--seeds", type=int, nargs="*")
    options.add_argument("--table", action="store_true", help="put what was measured into the page that has it")
    given = options.parse_args()
    comparison = Comparison(given.question)
    if unknown := set(given.only or ()) - set(comparison.contenders):
        options.error(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(comparison.contenders)}")
    torch.set_num_threads(comparison.settings["recipe"]["threads"])
    if given.table:
        comparison.table.write(errors_table(comparison.rows(), comparison))
        return
    finished = [(row["contender"], row["seed"]) for row in comparison.rows()]
    for seed in comparison.settings["seeds"] if given.seeds is None else given.seeds:
        for name in given.only or comparison.contenders:
            if (name, seed) not in finished:
                row = run(comparison, name, seed)
                record(comparison.path, row)
                print(f"{name} seed {seed}: {row['errors']} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
