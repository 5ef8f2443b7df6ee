"""Peak memory of `crystalformers predict` over a large table, and of an epoch of training.

Each command runs as a process of its own; what is reported is its peak resident memory, as the operating system
counted it (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.harness import RESULTS, ROOT, parser, print_table, shared, write_results
from crystalformers.prediction import bundled

COMMAND = """
import sys
from pathlib import Path
from benchmarks.harness import peak_memory
from crystalformers.cli import main
peak = Path(sys.argv.pop(1))
try:
    main()
finally:
    peak.write_text(str(peak_memory()))
"""


def measure(task: str, table: Path, rows: int | None, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a command over a table or its first rows; its peak resident memory in bytes, seconds and exit code.

    Raises:
        SystemExit: if the command fails; its own message is above.
    """
    used = table if rows is None else folder / f"first-{rows}-{table.name}"
    if rows is not None:
        pq.write_table(pq.read_table(table)[:rows], used)
    start = time.perf_counter()
    command = [sys.executable, "-c", COMMAND, str(folder / "peak"), task, str(used), *arguments]
    code = subprocess.run(command, check=False, cwd=ROOT).returncode
    if code not in (0, 1):
        raise SystemExit(f"FAILED with exit code {code}: {' '.join(command[4:])}")
    peak, seconds = int((folder / "peak").read_text()), time.perf_counter() - start
    found = {"task": task, "table": table.name, "rows": pq.read_metadata(used).num_rows}
    return found | {"peak_rss_bytes": peak, "seconds": seconds, "exit_code": code}


def predicting(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of `crystalformers predict`."""
    models = given.model or bundled.names()
    named = [part for model in models for part in ("-m", model)]
    output = ["-o", str(folder / "out.csv")]
    found = measure("predict", given.predict_table, given.predict_rows, [*named, *output], folder)
    return found | {"models": [Path(model).name for model in models]}


def training(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of one epoch of `crystalformers train` with the published recipe."""
    target = ["--target", "formation_energy_per_atom", "--unit", "eV/atom", "--basis", "per_atom"]
    run = ["--set", "defaults=published", "--epochs", "1", "-o", str(folder / "run")]
    found = measure("train", given.train_table, given.train_rows, [*target, *run], folder)
    return found | {"steps": json.loads((folder / "run" / "summary.json").read_text())["steps"]}


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("-m", "--model", action="append", help="bundled name, run folder or weight file; repeatable")
    data = shared() / "data"
    options.add_argument("--predict-table", type=Path, default=data / "mp2025_structures_20k.parquet")
    options.add_argument("--predict-rows", type=int, help="only the first rows of it")
    options.add_argument("--train-table", type=Path, default=data / "mp36k.parquet")
    options.add_argument("--train-rows", type=int, help="only the first rows of it")
    options.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    return options.parse_args()


def main() -> None:
    given = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for table, task in ((given.predict_table, predicting), (given.train_table, training)):
            if table.is_file():
                rows.append(task(given, Path(name)))
            else:
                print(f"NOT MEASURED: {task.__name__}; {table.name} was not found, name a table with an option.")
    if not rows:
        raise SystemExit("Nothing was measured.")
    cells = [[f"{r['rows']:,}", f"{r['peak_rss_bytes'] / 1e9:.2f}", f"{r['seconds']:.0f}"] for r in rows]
    header = ["command", "table", "rows", "peak memory (GB)", "seconds"]
    print_table(header, [[r["task"], r["table"], *c] for r, c in zip(rows, cells, strict=True)])
    write_results(given.output, {"rows": rows}, "pyarrow", "lightning-fabric")


if __name__ == "__main__":
    main()
