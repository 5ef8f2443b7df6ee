"""Seconds of fine-tuning on 500 crystals with the defaults: the command, from its start to a model with intervals.

    python -m benchmarks.speed.fine_tuning

450 rows to train on and 50 for validation of each small table; nothing is measured on other rows. Writes
benchmarks/results/fine-tuning.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.accuracy.fine_tuning import tasks
from benchmarks.harness import RESULTS, ROOT, parser, print_table, size_distribution, write_results
from crystalformers import load_model
from crystalformers.screening.engines import usable_cores

MAIN = "from crystalformers.cli import main; main()"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=500)
    options.add_argument("--model", default="mp36k-base")
    options.add_argument("--threads", type=int, default=usable_cores())
    options.add_argument("--tasks", nargs="+", default=list(tasks()))
    given = options.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in given.tasks:
        task = tasks()[name]
        with tempfile.TemporaryDirectory() as folder:
            path, run = Path(folder) / f"{name}.parquet", Path(folder) / "run"
            rows = task.rows("choose", given.rows, 0)
            rows = rows.filter(pc.not_equal(rows["split"], pa.scalar("test")))
            pq.write_table(rows, path)
            target = task.target
            command = [sys.executable, "-c", MAIN, "train", str(path), "--target", target.name, "--unit", target.unit]
            command += ["--basis", target.basis, "--transform", target.transform, "--init", given.model]
            begin = time.perf_counter()
            subprocess.run([*command, "-o", str(run), "--threads", str(given.threads)], check=True, cwd=ROOT)
            seconds = time.perf_counter() - begin
            atoms = size_distribution(map(len, rows["atomic_numbers"].to_pylist()))
            intervals = target.name in load_model(run).calibration
        found[name] = {"seconds": seconds, "rows": len(rows), "n_atoms": atoms, "intervals": intervals}
    print_table(
        ("table", "rows", "atoms per cell", "seconds"),
        [
            [name, str(one["rows"]), f"{one['n_atoms']['mean']:.1f}", f"{one['seconds']:.0f}"]
            for name, one in found.items()
        ],
    )
    settings = {"model": given.model, "threads": given.threads}
    write_results(RESULTS / "fine-tuning.json", {"settings": settings, "tables": found})


if __name__ == "__main__":
    main()
