"""How often the intervals of fine-tuned models hold, on rows of their tables that they never met.

    python -m benchmarks.accuracy.fine_tuned_intervals            # of the runs of `fine_tuning test` that are here
    python -m benchmarks.accuracy.fine_tuned_intervals --table    # what was measured so far

The test rows of `fine_tuning` are the same for all seeds, and fold 0 where Matbench has folds. The promise of intervals
is another: it holds for rows drawn like the validation rows by which they were calibrated. So here count all rows that
a run has neither learned from nor validated on, or `MOST` of them, drawn at random. One line of JSON a run in
benchmarks/results/accuracy/fine-tuned-intervals.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.accuracy.doubt import coverage
from benchmarks.accuracy.fine_tuning import RUNS, Task, results, tasks
from benchmarks.harness import RESULTS, machine, print_table, record, recorded, versions
from crystalformers import evaluate_model, load_model, open_table

OUT = RESULTS / "accuracy" / "fine-tuned-intervals.jsonl"
CONTENDER = "tuned"
"""Of `fine_tuning.yaml`: the defaults."""

MOST = 1000
"""Rows that are predicted, of each run."""


def unseen_rows(task: Task, size: int, seed: int) -> pa.Table:
    """Rows of the task that a run neither trained nor validated on, with `test` in the column `split`."""
    table, drawn = task.labelled(), task.rows("test", size, seed)
    known = set(drawn.filter(pa.array(np.array(drawn["split"].to_pylist()) != "test"))["id"].to_pylist())
    unseen = np.flatnonzero([name not in known for name in table["id"].to_pylist()])
    chosen = np.sort(np.random.default_rng(seed).permutation(unseen)[:MOST])
    return task.plain(table.take(pa.array(chosen))).append_column("split", pa.array(["test"] * len(chosen)))


def measure(name: str, size: int, seed: int, contender: str, folder: Path) -> dict[str, Any]:
    """Coverage and mean width of the intervals of one run."""
    task = tasks()[name]
    path = folder.with_name(f"{folder.name}-unseen.parquet")
    pq.write_table(unseen_rows(task, size, seed), path)
    model, table = load_model(folder), open_table(path)
    evaluation = evaluate_model(model, table, "test")
    path.unlink()
    return {
        "task": name,
        "size": size,
        "seed": seed,
        "contender": contender,
        "rows": len(table),
        "mae": evaluation.scores[0].mae,
        "coverage": coverage(model, table, evaluation)[task.target.name],
        "machine": machine(),
        "versions": versions(),
    }


def measured(contender: str = CONTENDER) -> list[dict[str, Any]]:
    """What was measured of the runs of a contender."""
    return [row for row in recorded(OUT) if row["contender"] == contender]


def print_coverage(done: list[dict[str, Any]]) -> None:
    """Measured coverage at each nominal one, by task and over all runs: means, over the runs that have enough rows."""
    levels = sorted({one["coverage"] for row in done for one in row["coverage"]})
    lines = []
    for name in [*dict.fromkeys(row["task"] for row in done), "all"]:
        own = [row for row in done if name in (row["task"], "all")]
        cells = [[one["measured"] for row in own for one in row["coverage"] if one["coverage"] == at] for at in levels]
        lines.append([name, str(len(own)), *(f"{np.mean(cell):.1%} ({len(cell)})" if cell else "-" for cell in cells)])
    print_table(["table", "models", *(f"{level:.0%}" for level in levels)], lines)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS / "test", help="folder of the runs")
    parser.add_argument("--contender", default=CONTENDER, help="whose runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if not given.table:
        finished = {(row["task"], row["size"], row["seed"]) for row in measured(given.contender)}
        for row in results("test"):
            key = (row["task"], row["size"], row["seed"])
            folder = given.runs / "{}-{}-{}-seed{}".format(*key[:2], given.contender, key[2])
            if row["contender"] != given.contender or key in finished or not (folder / "model.safetensors").is_file():
                continue
            record(OUT, measure(*key, given.contender, folder))
            print(*key, flush=True)
    print_coverage(measured(given.contender))


if __name__ == "__main__":
    main()
