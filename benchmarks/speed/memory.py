"""Peak memory of `crystalformers predict` over a large table, and of an epoch of training.

Each command runs as a process of its own; what is reported is its peak resident memory, as the operating system
counted it. This script itself stays small, since a child starts with its parent's peak.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, machine, print_table, shared, versions, write_results

BYTES_PER_RSS = 1 if sys.platform == "darwin" else 1024
COMMAND = "from crystalformers.cli import main; main()"
RANDOM_WEIGHTS = "random weights of the default architecture (no model is bundled)"


def peak_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Run Python with arguments; its peak resident memory in bytes, seconds and exit code.

    Raises:
        SystemExit: if the command fails; its own message stands above.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()
        raise
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        raise SystemExit(f"FAILED with exit code {code}: {' '.join(arguments)}")
    peak = usage.ru_maxrss * BYTES_PER_RSS
    return {"peak_rss_bytes": peak, "seconds": time.perf_counter() - start, "exit_code": code}


def run_python(code: str, *arguments: str) -> str:
    """Output of a few lines of Python in a process of their own."""
    finished = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return finished.stdout.strip()


def first_rows(table: Path, rows: int | None, folder: Path) -> Path:
    """The table, or a copy of its first rows that lives as long as `folder`."""
    if rows is None:
        return table
    short = folder / f"first-{rows}-{table.name}"
    code = (
        "import sys, pyarrow.parquet as pq; pq.write_table(pq.read_table(sys.argv[1])[: int(sys.argv[3])], sys.argv[2])"
    )
    run_python(code, str(table), str(short), str(rows))
    return short


def random_model(path: Path) -> Path:
    """A weight file of the default architecture; memory does not depend on the values."""
    code = """
import sys
from pathlib import Path
import torch
from crystalformers.checkpoint import save_model
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.target import Target
torch.manual_seed(0)
save_model(Path(sys.argv[1]), Crystalformer(), [Target("formation_energy_per_atom", "eV/atom", "per_atom")], {})
"""
    run_python(code, str(path))
    return path


def predicting(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of `crystalformers predict`."""
    bundled = run_python("from crystalformers.prediction import bundled; print(*bundled.names())").split()
    models = given.model or bundled or [str(random_model(folder / "random.safetensors"))]
    table = first_rows(given.predict_table, given.predict_rows, folder)
    named = [part for model in models for part in ("-m", model)]
    output = str(folder / "out.csv")
    measured = peak_of(["-c", COMMAND, "predict", str(table), *named, "-o", output])
    described = [Path(model).name for model in models] if given.model or bundled else [RANDOM_WEIGHTS]
    return {"task": "predict", "table": given.predict_table.name, "rows": number_of_rows(table)} | {
        "models": described,
        **measured,
    }


def training(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of one epoch of `crystalformers train` with the default recipe."""
    table = first_rows(given.train_table, given.train_rows, folder)
    target = ["--target", "formation_energy_per_atom", "--unit", "eV/atom", "--basis", "per_atom"]
    run = ["--epochs", "1", "-o", str(folder / "run")]
    measured = peak_of(["-c", COMMAND, "train", str(table), *target, *run])
    code = "import json, sys; print(json.load(open(sys.argv[1]))['steps'])"
    steps = int(run_python(code, str(folder / "run" / "summary.json")))
    return {"task": "train", "table": given.train_table.name, "rows": number_of_rows(table), "steps": steps} | measured


def number_of_rows(table: Path) -> int:
    """Rows of a Parquet table."""
    return int(
        run_python("import sys, pyarrow.parquet as pq; print(pq.read_metadata(sys.argv[1]).num_rows)", str(table))
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", action="append", help="bundled name, run folder or weight file; repeatable")
    data = shared() / "data"
    parser.add_argument("--predict-table", type=Path, default=data / "mp2025_structures_20k.parquet")
    parser.add_argument("--predict-rows", type=int, help="only the first rows of it")
    parser.add_argument("--train-table", type=Path, default=data / "mp36k.parquet")
    parser.add_argument("--train-rows", type=int, help="only the first rows of it")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for table, measure in ((given.predict_table, predicting), (given.train_table, training)):
            if table.is_file():
                rows.append(measure(given, Path(name)))
            else:
                print(f"NOT MEASURED: {measure.__name__}; {table.name} was not found, name a table with an option.")
    if not rows:
        raise SystemExit("Nothing was measured.")
    print_table(
        ["command", "table", "rows", "peak memory (GB)", "seconds"],
        [
            [
                row["task"],
                row["table"],
                f"{row['rows']:,}",
                f"{row['peak_rss_bytes'] / 1e9:.2f}",
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ],
    )
    packages = ("crystalformers", "torch", "numpy", "pyarrow", "lightning-fabric")
    write_results(given.output, {"machine": machine(), "versions": versions(*packages), "rows": rows})


if __name__ == "__main__":
    main()
