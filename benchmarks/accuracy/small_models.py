"""The bundled models of small tables: elastic moduli and phonons.

    python -m benchmarks.accuracy.small_models NAME      # train one entry of small_models.yaml, or go on with it

Settings come from the experiments of `benchmarks.accuracy.fine_tuning` on development rows. Test rows are fold 0 where
Matbench has folds, else drawn at random; they choose nothing. Runs are in runs/small-models; the finished model goes
into the package, with the name and licence of its data on its card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.accuracy.base_model import train_entry
from benchmarks.accuracy.bundle import bundle
from benchmarks.harness import ROOT, shared

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
    pq.write_table(plain.append_column("split", pa.array(split.tolist())), path)


def main() -> None:
    """Train, and put the model into the package."""
    name, entry = train_entry(SETTINGS, RUNS, __doc__, write_table)
    bundle(RUNS / name, name, entry["data"], half=True)


if __name__ == "__main__":
    main()
