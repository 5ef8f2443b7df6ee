"""The papers' central claims on data at hand: every variant with the same rows, budget and seeds.

    python -m benchmarks.accuracy.claims                       # what is missing, seed by seed
    python -m benchmarks.accuracy.claims --only max "no frames"
    python -m benchmarks.accuracy.claims --table               # errors and paired differences into docs/claims.md

Contenders, budget and data are in `claims.yaml`. Both weights of a run are measured on the test rows, those averaged
over the last epochs and those of the best validation epoch; neither is chosen by them. One line of JSON a run in
benchmarks/results/accuracy/claims.jsonl; run folders, which go on where they were stopped, are in runs/claims.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.harness import RESULTS, ROOT, machine, parser, record, recorded, shared, versions
from benchmarks.pages import ComputedTable
from crystalformers import Recipe, Target, fit, open_table

SETTINGS = Path(__file__).with_suffix(".yaml")
RUNS = ROOT / "runs" / "claims"
OUT = RESULTS / "accuracy" / "claims.jsonl"
TABLE = ComputedTable("claims.md", "claims", "accuracy/claims.py")
BASELINE = "no frames"


def write_table(path: Path, data: dict[str, Any]) -> None:
    """The rows of the official split, but so many of the training rows."""
    table = pq.read_table(shared() / "data" / f"{data['table']}.parquet")
    split = np.array(table["split"].to_pylist())
    training = np.flatnonzero(split == "train")
    drawn = np.random.default_rng(0).permutation(training)[: data["training"]]
    rows = np.sort(np.concatenate([drawn, np.flatnonzero(split != "train")]))
    names = ["id", "atomic_numbers", "lattice", "frac_coords", "split", *(one["name"] for one in data["targets"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.select(names).take(pa.array(rows)), path)


def run(settings: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Train one contender; its errors with everything needed to repeat it."""
    data, recipe = settings["data"], {**settings["recipe"], **settings["contenders"][name]}
    path, folder = RUNS / f"{data['table']}-{data['training']}.parquet", RUNS / f"{name.replace(' ', '-')}-seed{seed}"
    if not path.exists():
        write_table(path, data)
    start = time.monotonic()
    targets = [Target(**target) for target in data["targets"]]
    fit(open_table(path), targets, folder, Recipe.parse({**recipe, "seed": seed}), resume=True)
    summary = json.loads((folder / "summary.json").read_text())
    measured = {"averaged": summary["errors"], "best": summary["best"]["errors"]}
    errors = {
        target.name: {
            weights: {split: found[split][target.name]["mae"] for split in ("val", "test")}
            for weights, found in measured.items()
        }
        for target in targets
    }
    about = {"rows": summary["rows"], "seconds": round(time.monotonic() - start), "settings": recipe}
    return {"contender": name, "seed": seed, "errors": errors, **about, "machine": machine(), "versions": versions()}


def results() -> list[dict[str, Any]]:
    """The runs that are done."""
    return recorded(OUT)


def error_of(row: dict[str, Any], target: str, weights: str = "averaged", split: str = "test") -> float:
    """Mean absolute error of a run."""
    return float(row["errors"][target][weights][split])


def paired_changes(done: list[dict[str, Any]], name: str, target: str, split: str = "test") -> list[float]:
    """How much more a contender errs than `BASELINE` with the same seed, in per cent, by seed."""

    def by_seed(contender: str) -> dict[int, float]:
        return {row["seed"]: error_of(row, target, split=split) for row in done if row["contender"] == contender}

    baseline, own = by_seed(BASELINE), by_seed(name)
    return [100 * (own[seed] / baseline[seed] - 1) for seed in sorted(own.keys() & baseline.keys())]


def errors_table(done: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Test errors by weights, and the paired change against `BASELINE`: mean and standard deviation over seeds."""

    def spread(values: list[float], form: str) -> str:
        return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):.2g}" if values[1:] else "")

    heads, targets = ["", "seeds"], settings["data"]["targets"]
    for target in targets:
        heads += [
            f"{target['name'].replace('_', ' ')} ({target['unit']})",
            "best epoch",
            f"against {BASELINE}",
            "on validation rows",
        ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in settings["contenders"]:
        own = [row for row in done if row["contender"] == name]
        if not own:
            continue
        cells = [name, str(len(own))]
        for target in (target["name"] for target in targets):
            for weights in ("averaged", "best"):
                cells.append(spread([error_of(row, target, weights) for row in own], ".4f"))
            for split in ("test", "val"):
                paired = paired_changes(done, name, target, split)
                cells.append(f"{spread(paired, '+.1f')} %" if paired and name != BASELINE else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing."""
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--only", nargs="*", choices=settings["contenders"], help="only these contenders")
    options.add_argument("--seeds", type=int, nargs="*", default=settings["seeds"])
    options.add_argument("--table", action="store_true", help="put what was measured into docs/claims.md")
    given = options.parse_args()
    torch.set_num_threads(settings["recipe"]["threads"])
    if given.table:
        TABLE.write(errors_table(results(), settings))
        return
    finished = [(row["contender"], row["seed"]) for row in results()]
    for seed in given.seeds:
        for name in given.only or settings["contenders"]:
            if (name, seed) not in finished:
                row = run(settings, name, seed)
                record(OUT, row)
                print(f"{name} seed {seed}: {row['errors']} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
