"""Small crystals, tables and random models that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crystalformers.checkpoint import save_model
from crystalformers.crystal import Crystal
from crystalformers.models import build_model
from crystalformers.periodic import SYMBOLS
from crystalformers.target import Target
from crystalformers.testing import repeated

ENERGY = Target("energy", "eV/atom", basis="per_atom", mean=-1.5, std=0.7)
CELL_ENERGY = Target("cell_energy", "eV", basis="per_cell", mean=-2.0, std=0.5)
MODULUS = Target("modulus", "GPa", transform="log10", mean=2.0, std=0.3)


def tiny_model(path: Path, targets: Sequence[Target] = (ENERGY,), seed: int = 0, **settings: Any) -> Path:
    """A random model with few numbers, saved to `path`."""
    torch.manual_seed(seed)
    config = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8}
    model = build_model("crystalformer", {**config, **settings, "n_targets": len(targets)})
    save_model(path, model, targets, {})
    return path


def rock_salt(cation: str = "Na", anion: str = "Cl", a: float = 5.64, name: str = "") -> Crystal:
    """Primitive cell of rock salt; a in Angstrom."""
    lattice = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    numbers = np.array([SYMBOLS.index(cation) + 1, SYMBOLS.index(anion) + 1])
    return Crystal(numbers, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), lattice, name)


def supercell(crystal: Crystal, times: int) -> Crystal:
    """The crystal repeated along a."""
    return repeated(crystal, (times, 1, 1))


def many(count: int) -> list[Crystal]:
    """Different crystals of different sizes, ids x0, x1..."""
    crystals = []
    for k in range(count):
        base = rock_salt(SYMBOLS[10 + k % 7], "O", 4.5 + 0.01 * k)
        crystals.append(supercell(base, 1 + (k * 5) % 4))
    return [Crystal(c.numbers, c.frac_coords, c.lattice, f"x{k}") for k, c in enumerate(crystals)]


def write_table(path: Path, crystals: Sequence[Crystal], **columns: Sequence[object]) -> Path:
    """A Parquet table with the columns a reader expects, and any labels."""
    data = {
        "id": [crystal.name for crystal in crystals],
        "atomic_numbers": [crystal.numbers.tolist() for crystal in crystals],
        "lattice": [crystal.lattice.ravel().tolist() for crystal in crystals],
        "frac_coords": [crystal.frac_coords.ravel().tolist() for crystal in crystals],
        "n_atoms": [len(crystal) for crystal in crystals],
        **columns,
    }
    pq.write_table(pa.table(data), path)
    return path


def write_poscar(path: Path, crystal: Crystal) -> Path:
    """A POSCAR in VASP 5 format."""
    rows = ["sample", "1.0", *(" ".join(map(repr, map(float, row))) for row in crystal.lattice)]
    rows += [" ".join(crystal.symbols), " ".join("1" for _ in crystal.symbols), "Direct"]
    rows += [" ".join(map(repr, map(float, row))) for row in crystal.frac_coords]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
