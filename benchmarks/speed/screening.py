"""Screening many structures: rate, memory, and the same rows with 1 and 2 parts at once, and with 4 after kills.

    python -m benchmarks.speed.screening --scratch FOLDER

The structures are those of some tables in random order, repeated with a random strain each until there are as many as
asked for. Every run is the command `crystalformers screen` in a process of its own. In the disturbed run either the
command or one of its processes gets SIGKILL at random times, and the command is repeated until it ends by itself. The
kernel's own rate is that of image lists and network for crystals held in memory, in as many processes at once, each
with one thread, measured before and after the first run.

A run takes tens of minutes. Stopped, the same command goes on after the last run that is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.harness import RESULTS, ROOT, machine, parser, print_table, shared, write_results
from crystalformers.files import write_atomically
from crystalformers.screening.engines import usable_cores

TABLES = (
    "mp36k",
    "mp2025_structures_20k",
    "matbench_perovskites",
    "oqmd_a3bc",
    "mp_binary_elasticity",
    "matbench_phonons",
)
COLUMNS = ("atomic_numbers", "lattice", "frac_coords", "n_atoms")
LARGEST_STRAIN = 0.03
ROWS_OF_A_FILE = 200_000
KERNEL_SAMPLE = 1_000

KERNEL = """
import sys, time
import torch
from itertools import islice
from pathlib import Path
from crystalformers import Crystal
from crystalformers.io import read_structures
from crystalformers.prediction.loading import load_model
torch.set_num_threads(1)
usable = (one for one in read_structures([Path(sys.argv[1])]) if isinstance(one, Crystal))
crystals = list(islice(usable, int(sys.argv[2])))
model = load_model()
model.values(crystals[:100])
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
model.values(crystals)
print(sum(map(len, crystals)) / (time.perf_counter() - begin), flush=True)
"""


def strained(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """The same structures with another lattice each: a random symmetric strain."""
    lattices = np.array(table["lattice"].to_pylist()).reshape(-1, 3, 3)
    strain = rng.uniform(-LARGEST_STRAIN, LARGEST_STRAIN, lattices.shape)
    lattices += lattices @ (strain + strain.swapaxes(1, 2)) / 2
    column = pa.array(lattices.reshape(-1, 9).tolist(), table["lattice"].type)
    return table.set_column(table.column_names.index("lattice"), "lattice", column)


def write_tables(sources: Sequence[Path], folder: Path, count: int, seed: int) -> None:
    """Write `count` structures to a folder of Parquet files, whole or not at all."""
    parts = [pq.read_table(source, columns=list(COLUMNS)) for source in sources]
    rng = np.random.default_rng(seed)
    table = pa.concat_tables([part.cast(parts[0].schema) for part in parts])
    table = table.take(pa.array(rng.permutation(len(table))))
    draft = folder.with_name("unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    done = 0
    for file in range(-(-count // ROWS_OF_A_FILE)):
        with pq.ParquetWriter(
            draft / f"{file:04d}.parquet", table.schema.append(pa.field("id", pa.string()))
        ) as writer:
            while done < (end := min(count, (file + 1) * ROWS_OF_A_FILE)):
                part = strained(table, rng).slice(0, end - done)
                ids = pa.array([str(number) for number in range(done, done + part.num_rows)])
                writer.write_table(part.append_column("id", ids), row_group_size=10_000)
                done += part.num_rows
    draft.rename(folder)


def number_of_atoms(folder: Path) -> int:
    """Atoms of all structures in a folder of tables."""
    return sum(pc.sum(pq.read_table(path, columns=["n_atoms"])["n_atoms"]).as_py() for path in folder.iterdir())


def descendants(process: int) -> list[int]:
    """A process and all that it has started (Linux)."""
    found = [process]
    for one in found:
        path = Path(f"/proc/{one}/task/{one}/children")
        found += [int(child) for child in path.read_text().split()] if path.exists() else []
    return found


def resident(process: int) -> int:
    """Resident memory of a process, bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def run(folder: Path, results: Path, workers: int, kills: Iterator[float]) -> dict[str, Any]:
    """Screen the tables of a folder, with a SIGKILL after each of these seconds; seconds, peak memory, kills, files."""
    command = [sys.executable, "-c", "from crystalformers.cli import main; main()"]
    command += ["screen", str(folder), "-o", str(results), "--workers", str(workers)]
    begin, peak, killed, rng = time.perf_counter(), 0, 0, random.Random(0)
    for wait in kills:
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            until = time.perf_counter() + wait
            while time.perf_counter() < until and process.poll() is None:
                time.sleep(0.05)
                peak = max(peak, sum(map(resident, descendants(process.pid))))
            if process.poll() is None and (victims := descendants(process.pid)):
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed += 1
                process.kill()  # a process that was lost alone is replaced: this ends the command as well
    code: int | None = None
    with subprocess.Popen(command, cwd=ROOT) as process:
        while (code := process.poll()) is None:
            time.sleep(0.2)
            peak = max(peak, sum(map(resident, descendants(process.pid))))
    if code not in (0, 1):
        raise SystemExit(f"screening ended with exit code {code}")
    return {"seconds": time.perf_counter() - begin, "peak_bytes": peak, "kills": killed, "exit_code": code}


def kernel_rate(table: Path, workers: int) -> float:
    """Atoms per second of image lists and network, in so many processes at once."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", KERNEL, str(table), str(KERNEL_SAMPLE)]
    children = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(workers)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    total = 0.0
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        total += float(child.communicate()[0])
    return total


def difference(results: Path, reference: Path) -> dict[str, Any]:
    """Whether two results hold the same rows once each, and how far numbers differ at most."""
    one, other = (pq.read_table(path / "predictions").to_pandas() for path in (results, reference))
    numbers = one.select_dtypes("number").columns
    return {
        "rows": len(one),
        "same_structures": bool(one[["file", "row", "name"]].equals(other[["file", "row", "name"]])),
        "twice": int(one.duplicated(["file", "row"]).sum()),
        "identical": bool(one.equals(other)),
        "largest_difference": float(np.nanmax(np.abs(one[numbers].to_numpy(float) - other[numbers].to_numpy(float)))),
    }


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument(
        "--tables", type=Path, nargs="+", default=[shared() / "data" / f"{name}.parquet" for name in TABLES]
    )
    made.add_argument("--structures", type=int, default=1_000_000)
    made.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="parts at once; the first is compared with"
    )
    made.add_argument("--disturbed", type=int, default=4, help="parts at once in the disturbed run")
    made.add_argument("--kills", type=int, default=10, help="SIGKILLs in the disturbed run; 0: none")
    made.add_argument(
        "--seconds", type=float, nargs=2, default=[15, 120], help="shortest and longest time between kills"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--scratch", type=Path, required=True, help="folder for tables, results and finished runs")
    made.add_argument("--output", type=Path, default=RESULTS / "screening.json")
    return made.parse_args()


def main() -> None:
    given = options()
    folder, first = given.scratch, given.workers[0]
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "structures": given.structures,
        "tables": [path.name for path in given.tables],
        "largest_strain": LARGEST_STRAIN,
        "seed": given.seed,
    }
    state = folder / "finished.json"
    done: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {"about": about, "runs": []}
    if done["about"] != about:
        raise SystemExit(f"{folder} holds runs on other structures; name another folder.")
    if not (tables := folder / "tables").exists():
        write_tables(given.tables, tables, given.structures, given.seed)
    atoms, rng = number_of_atoms(tables), random.Random(given.seed)
    waits = [rng.uniform(*given.seconds) for _ in range(given.kills)]
    runs: list[tuple[str, int, list[float]]] = [(f"{count} at once", count, []) for count in given.workers]
    if waits:
        runs.append((f"{given.disturbed} at once, {given.kills} kills", given.disturbed, waits))
    for name, workers, kills in runs:
        if name in [row["run"] for row in done["runs"]]:
            continue
        place = folder / name.replace(" ", "-")
        shutil.rmtree(place, ignore_errors=True)
        sample, kernels = tables / "0000.parquet", min(workers, usable_cores())
        kernel = [kernel_rate(sample, kernels)]
        found = run(tables, place, workers, iter(kills))
        kernel.append(kernel_rate(sample, kernels))
        found |= {"run": name, "workers": workers, **difference(place, folder / f"{first}-at-once")}
        found["structures_per_second"] = given.structures / found["seconds"]
        found |= {"kernel_atoms_per_second": kernel, "machine": machine()}
        found["share_of_kernel_rate"] = atoms / found["seconds"] / statistics.mean(kernel)
        done["runs"].append(found)
        write_atomically(state, json.dumps(done).encode())
    write_results(given.output, {**about, "atoms": atoms, "runs": done["runs"]}, "pyarrow")
    print_table(
        ("run", "structures/s", "of kernel rate", "memory (GB)", "identical rows"),
        [
            (
                row["run"],
                f"{row['structures_per_second']:.0f}",
                f"{row['share_of_kernel_rate']:.0%}",
                f"{row['peak_bytes'] / 1e9:.2f}",
                str(row["identical"]),
            )
            for row in done["runs"]
        ],
    )


if __name__ == "__main__":
    main()
