"""Small tables of every kind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

POSCAR = "{name}\n1.0\n4 0 0\n0 4 0\n0 0 4\n{symbols}\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def salt(name: str = "salt", **other: Any) -> Row:
    return {
        "id": name,
        "formula": "NaCl",
        "atomic_numbers": [11, 17],
        "lattice": [4.0, 0, 0, 0, 4, 0, 0, 0, 4],
        "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5],
    } | other


def write_parquet(path: Path, rows: list[Row], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


WRITERS = {"table.parquet": write_parquet, "table.jsonl": write_jsonl}


def random_rows(n_rows: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[[0, 1, 2]] * 3), axis=-1).reshape(-1, 3) / 3
    rows = []
    for index in range(n_rows):
        n_atoms = int(rng.integers(1, 20))
        frac = rng.permutation(grid)[:n_atoms] + rng.uniform(-0.05, 0.05, (n_atoms, 3))
        lattice = np.diag(rng.uniform(5, 9, 3)) + np.tril(rng.uniform(-2, 2, (3, 3)), -1)
        rows.append(
            {
                "id": f"row-{index}",
                "atomic_numbers": rng.integers(1, 99, n_atoms).tolist(),
                "lattice": lattice.reshape(-1).tolist(),
                "frac_coords": frac.reshape(-1).tolist(),
                "energy": float(rng.normal()),
            }
        )
    return rows
