"""The bundled models of small tables: elastic moduli, phonons, perovskites. Each starts from `mp36k-base`.

    python -m benchmarks.accuracy.small_models NAME      # train one entry of small_models.yaml, or go on with it

Settings come from the experiments of `benchmarks.accuracy.fine_tuning` on development rows. Test rows are fold 0 where
Matbench has folds, else drawn at random; they choose nothing. Runs are in runs/small-models.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.harness import ROOT, shared
from crystalformers import Recipe, Target, fit, open_table

RUNS = ROOT / "runs" / "small-models"
SETTINGS = Path(__file__).with_suffix(".yaml")


def write_table(path: Path, entry: dict[str, Any]) -> None:
    """The rows of a table with the labels of an entry by their targets' names, and a column `split`."""
    table = pq.read_table(shared() / "data" / f"{entry['table']}.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    in_test = (
        np.arange(len(order)) < entry["test"] if "test" in entry else table["matbench_fold"].to_numpy()[order] == 0
    )
    test, others = order[in_test], order[~in_test]
    split = np.full(len(table), "train", dtype=object)
    split[test], split[others[: entry["validation"]]] = "test", "val"
    plain = table.select(["id", "atomic_numbers", "lattice", "frac_coords"])
    for target, label in zip(entry["targets"], entry["labels"], strict=True):
        plain = plain.append_column(target["name"], table[label])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(plain.append_column("split", pa.array(split.tolist())), path)


def main() -> None:
    """Train one model."""
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=settings["models"])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    entry = settings["models"][given.name]
    table = RUNS / f"{given.name}.parquet"
    if not table.exists():
        write_table(table, entry)
    recipe = Recipe.parse({**entry["recipe"], "threads": given.threads})
    fit(open_table(table), [Target(**target) for target in entry["targets"]], RUNS / given.name, recipe, resume=True)


if __name__ == "__main__":
    main()
