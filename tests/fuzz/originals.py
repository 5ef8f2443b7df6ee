"""Right files of every kind that the fuzzer changes, all made from the examples and recipes of the project."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from archives import Member, tar_of, zip_of

from crystalformers.io import read_crystal
from crystalformers.training.recipe import Recipe

EXAMPLES = Path(__file__).parents[2] / "examples"

RECIPES = Path(__file__).parents[2] / "recipes"

NAMED = tuple(EXAMPLES / f"{name}.cif" for name in ("NaCl", "Si", "ZnO", "Al2O3"))
"""The files that a CSV names."""

FILENAME = {
    "cif": "x.cif",
    "cif.gz": "x.cif.gz",
    "poscar": "POSCAR",
    "extxyz": "x.extxyz",
    "json": "x.json",
    "csv": "x.csv",
    "jsonl": "x.jsonl",
    "parquet": "x.parquet",
    "optimade": "x.parquet",
    "zip": "x.zip",
    "tar": "x.tar",
    "tar.gz": "x.tar.gz",
    "recipe": "x.yaml",
}
"""Each kind of input, and the name that its files have."""

SCREENED = ("optimade", "zip", "tar", "tar.gz")
"""Kinds that only `crystalformers screen` reads."""


@lru_cache
def originals(kind: str) -> tuple[bytes, ...]:
    """Right files of a kind, which mutations start from."""
    cifs = sorted(EXAMPLES.glob("*.cif"))
    crystals = [read_crystal(path) for path in cifs]
    texts = [path.read_bytes() for path in cifs]
    rows = [_row(crystal, k) for k, crystal in enumerate(crystals)]
    lines = [json.dumps(row) for row in rows]
    members = [Member(f"structures/{path.name}", text) for path, text in zip(cifs, texts, strict=True)]
    files: dict[str, Callable[[], tuple[bytes, ...]]] = {
        "cif": lambda: (*texts, *(text.encode() for text in _symmetric_cifs())),
        "cif.gz": lambda: tuple(gzip.compress(text, mtime=0) for text in texts),
        "poscar": lambda: (
            *(_poscar(crystal).encode() for crystal in crystals),
            *(_old_poscar(crystal).encode() for crystal in crystals),
        ),
        "extxyz": lambda: tuple(_extxyz(crystal).encode() for crystal in crystals),
        "json": lambda: (
            *(json.dumps(_pymatgen(crystal)).encode() for crystal in crystals),
            *(_ase(crystal).encode() for crystal in crystals),
        ),
        "csv": lambda: ("\n".join(["id,energy", *(f"{path.stem},{k / 10}" for k, path in enumerate(NAMED))]).encode(),),
        "jsonl": lambda: ("\n".join(lines).encode(), "\n".join(lines[:2]).encode()),
        "parquet": lambda: (parquet(rows),),
        "optimade": lambda: (parquet([_optimade(crystal) for crystal in crystals]),),
        "zip": lambda: (zip_of(members), zip_of(members[:1])),
        "tar": lambda: (tar_of(members), tar_of(members[:1])),
        "tar.gz": lambda: (gzip.compress(tar_of(members), mtime=0), gzip.compress(tar_of(members[:1]), mtime=0)),
        "recipe": lambda: (
            *(path.read_bytes() for path in sorted(RECIPES.glob("*.yaml"))),
            Recipe().to_yaml().encode(),
            Recipe.parse({"preset": "crystalframer", "exclude": [{"table": "x.csv"}]}).to_yaml().encode(),
        ),
    }
    return files[kind]()


def _poscar(crystal: Any) -> str:
    order = np.argsort(crystal.numbers, kind="stable")
    symbols = [crystal.symbols[k] for k in order]
    distinct = list(dict.fromkeys(symbols))
    rows = ["example", "1.0", *(" ".join(f"{x:.9f}" for x in row) for row in crystal.lattice), " ".join(distinct)]
    rows += [" ".join(str(symbols.count(symbol)) for symbol in distinct), "Direct"]
    return "\n".join(rows + [" ".join(f"{x:.9f}" for x in crystal.frac_coords[k]) for k in order]) + "\n"


def _old_poscar(crystal: Any) -> str:
    """A file of VASP 4, whose elements are in its first line, with flags and Cartesian positions."""
    rows = _poscar(crystal).split("\n")
    lattice = np.array([row.split() for row in rows[2:5]], dtype=float)
    positions = np.array([row.split() for row in rows[8:-1]], dtype=float) @ lattice
    body = [" ".join(f"{x:.9f}" for x in position) + " T T F" for position in positions]
    return "\n".join([rows[5], *rows[1:5], rows[6], "Selective dynamics", "Cartesian", *body]) + "\n"


def _symmetric_cifs() -> Iterator[str]:
    """Files in which symmetry acts: zinc oxide by the name of its space group, rock salt by its operations."""
    for symbols, cell, group, sites in (
        ("Zn O", (3.25, 3.25, 5.2, 90, 90, 120), "P 63 m c", ("0.333 0.667 0", "0.3333 0.6667 0.375")),
        ("Na Cl", (5.64, 5.64, 5.64, 90, 90, 90), "F m -3 m", ("0 0 0", "0.5 0.5 0.5")),
    ):
        names = [f"length_{x}" for x in "abc"] + [f"angle_{x}" for x in ("alpha", "beta", "gamma")]
        rows = ["data_x", *(f"_cell_{name} {number}" for name, number in zip(names, cell, strict=True))]
        rows += [f"_chemical_formula_sum '{symbols}'", f"_cell_formula_units_Z {2 if 'Zn' in symbols else 4}"]
        rows += [f"_space_group_name_H-M_alt '{group}'"]
        operations = [f"'{op.triplet()}'" for op in gemmi.find_spacegroup_by_name(group).operations()]
        columns = ["label", "type_symbol", *(f"fract_{x}" for x in "xyz"), "occupancy", "calc_flag"]
        table = ["loop_", *(f"_atom_site_{column}" for column in columns)]
        table += [f"{s}1 {s}2+ {site} 1.0 d" for s, site in zip(symbols.split(), sites, strict=True)]
        yield "\n".join([*rows, *table, ""])
        yield "\n".join([*rows, "loop_", "_space_group_symop_operation_xyz", *operations, *table, ""])


def _ase(crystal: Any) -> str:
    from ase import Atoms
    from ase.io.jsonio import encode

    return str(encode(Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)))


def _extxyz(crystal: Any) -> str:
    lattice = " ".join(f"{x:.9f}" for x in crystal.lattice.ravel())
    head = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"'
    atoms = zip(crystal.symbols, crystal.positions, strict=True)
    return "\n".join(
        [str(len(crystal)), head, *(f"{s} " + " ".join(f"{x:.9f}" for x in position) for s, position in atoms)]
    )


def _pymatgen(crystal: Any) -> dict[str, Any]:
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": frac.tolist(), "label": symbol}
        for symbol, frac in zip(crystal.symbols, crystal.frac_coords, strict=True)
    ]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "lattice": {"matrix": crystal.lattice.tolist(), "pbc": [True, True, True]},
        "sites": sites,
    }


def _optimade(crystal: Any) -> dict[str, Any]:
    kinds = [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in dict.fromkeys(crystal.symbols)]
    return {
        "immutable_id": crystal.name,
        "lattice_vectors": crystal.lattice.tolist(),
        "cartesian_site_positions": crystal.positions.tolist(),
        "species_at_sites": list(crystal.symbols),
        "species": json.dumps(kinds),
        "dimension_types": [1, 1, 1],
    }


def _row(crystal: Any, k: int) -> dict[str, Any]:
    return {
        "id": f"x{k}",
        "atomic_numbers": crystal.numbers.tolist(),
        "lattice": crystal.lattice.ravel().tolist(),
        "frac_coords": crystal.frac_coords.ravel().tolist(),
        "energy": 0.1 * k,
    }


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()
