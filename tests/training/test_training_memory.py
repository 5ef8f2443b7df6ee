"""A table need not fit into memory: training sees it through a memory-mapped file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ATOMS = 64
BYTES_OF_A_ROW = ATOMS * (8 + 3 * 8) + 9 * 8

PROGRAM = """
import sys
from pathlib import Path
from crystalformers.data.table import open_table
from crystalformers.target import Target
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset
from crystalformers.training.fit import identity
from crystalformers.training.recipe import Recipe

recipe = Recipe.parse({"batch_size": 8, "image_cache_gb": 0.0, "threads": 1})
dataset = Dataset.of(open_table(Path(sys.argv[1])), [Target("energy", "eV")], recipe)
identity(recipe, dataset)
for number, _ in enumerate(Batches(dataset, 3.0, recipe).train(0, 0)):
    if number == 20:
        break
status = Path("/proc/self/status").read_text().splitlines()
print(next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon")))
"""


def write_rows(path: Path, rows: int) -> Path:
    """A Parquet table of one crystal, again and again."""
    places = np.stack(np.meshgrid(*[np.arange(4) / 4] * 3), -1).reshape(-1)
    columns = {
        "id": pa.array([f"x{k}" for k in range(rows)]),
        "atomic_numbers": pa.FixedSizeListArray.from_arrays(np.full(rows * ATOMS, 14), ATOMS),
        "lattice": pa.FixedSizeListArray.from_arrays(np.tile(10.0 * np.eye(3).ravel(), rows), 9),
        "frac_coords": pa.FixedSizeListArray.from_arrays(np.tile(places, rows), 3 * ATOMS),
        "energy": pa.array(np.arange(rows) / rows),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="NOT TESTED: memory is measured on Linux alone")
def test_the_memory_of_training_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """But for a name and some numbers of each row; what the operating system can drop is not counted."""
    rows, used = (20_000, 100_000), []
    for count in rows:
        table = write_rows(tmp_path / f"{count}.parquet", count)
        command = [sys.executable, "-c", PROGRAM, str(table)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        used.append(int(done.stdout))
    growth = (used[1] - used[0]) / (rows[1] - rows[0])
    assert growth < 0.25 * BYTES_OF_A_ROW, f"{growth:.0f} bytes for each row of {BYTES_OF_A_ROW}"
