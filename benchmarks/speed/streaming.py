"""Memory of a training whose table is large: the table is written, opened, and trained on for some steps.

The rows are those of a table of structures, repeated with a random strain each and with random labels. Two numbers are
reported of every process: its peak resident memory, which counts the pages of the memory-mapped table that happen to be
cached, and the peak of its anonymous part, which the operating system cannot drop (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import RESULTS, ROOT, parser, print_table, shared, write_results
from benchmarks.speed.screening import strained

PROGRAM = """
import json, os, signal, sys, threading, time
from pathlib import Path
from benchmarks.harness import peak_memory
from crystalformers.data.table import open_table
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, TrainingInterrupted, fit

folder, steps, cache = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
begin, anonymous, found = time.perf_counter(), [0], {}

def watch():
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        anonymous[0] = max(anonymous[0], next(1024 * int(line.split()[1]) for line in lines if line[:7] == "RssAnon"))
        time.sleep(0.05)

class Stop(Observer):
    def begin(self, progress, targets):
        found["seconds_until_training"] = time.perf_counter() - begin

    def step(self, progress):
        if progress.step == steps:
            os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=watch, daemon=True).start()
table = open_table(folder / "table.parquet", scratch=folder)
found |= {"rows": len(table), "seconds_to_open": time.perf_counter() - begin}
found |= {"peak_bytes_to_open": peak_memory(), "anonymous_bytes_to_open": anonymous[0]}
settings = {"defaults": "published", "epochs": 1, "average_epochs": 0, "image_cache_gb": cache}
recipe = Recipe.parse({**settings, "threads": 1, "accelerator": "cpu"})
try:
    fit(table, [Target("energy", "eV/atom", "per_atom")], folder / "run", recipe, observer=Stop())
except TrainingInterrupted:
    pass
found |= {"seconds": time.perf_counter() - begin, "peak_bytes": peak_memory(), "anonymous_bytes": anonymous[0]}
(folder / f"found-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))
"""


def write_table(source: Path, path: Path, rows: int, seed: int) -> None:
    """Write so many rows: those of a table again and again, each with a strain, an id and a label of its own."""
    table, rng, done = pq.read_table(source), np.random.default_rng(seed), 0
    table = table.select(["atomic_numbers", "lattice", "frac_coords"])
    schema = pa.schema([pa.field("id", pa.string()), *table.schema, pa.field("energy", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        while done < rows:
            part = strained(table, rng).slice(0, rows - done)
            ids = pa.array([f"x{k}" for k in range(done, done + part.num_rows)])
            energy = pa.array(rng.normal(size=part.num_rows))
            columns = [ids, *part.columns, energy]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=10_000)
            done += part.num_rows


def train(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Train some steps; what each process measured."""
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(given.processes)]
    command = [sys.executable, *(torchrun if given.processes > 1 else []), str(program), str(folder)]
    command += [str(given.steps), str(given.image_cache_gb)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("found-*.json"))]


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--table", type=Path, default=shared() / "data" / "mp2025_structures_20k.parquet")
    made.add_argument("--rows", type=int, default=800_000)
    made.add_argument("--steps", type=int, default=100, help="of 128 crystals")
    made.add_argument("--processes", type=int, default=1)
    made.add_argument("--image-cache-gb", type=float, default=2.0, help="memory for image lists; 2 is the default")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--scratch", type=Path, help="folder for the table, twice its size; default: temporary files")
    made.add_argument("--output", type=Path, default=RESULTS / "streaming.json")
    return made.parse_args()


def main() -> None:
    given = options()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder, begin = Path(scratch), time.perf_counter()
        write_table(given.table, folder / "table.parquet", given.rows, given.seed)
        written = time.perf_counter() - begin
        found = train(folder, given)
        size = (folder / "table.parquet").stat().st_size
    settings = {key: getattr(given, key) for key in ("rows", "steps", "processes", "image_cache_gb", "seed")}
    results = {**settings, "table": given.table.name, "table_bytes": size, "seconds_to_write": written}
    write_results(given.output, {**results, "found": found}, "pyarrow")
    print_table(
        ("process", "rows", "to open (s)", "peak (GB)", "of it anonymous (GB)"),
        [
            (
                str(k),
                f"{one['rows']:,}",
                f"{one['seconds_to_open']:.0f}",
                f"{one['peak_bytes'] / 1e9:.2f}",
                f"{one['anonymous_bytes'] / 1e9:.2f}",
            )
            for k, one in enumerate(found)
        ],
    )


if __name__ == "__main__":
    main()
