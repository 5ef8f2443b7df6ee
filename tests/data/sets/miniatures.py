"""Small data sets in the true form of the published ones, made here."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from host import Host, Page
from samples import many

from crystalformers import open_table
from crystalformers.crystal import Crystal
from crystalformers.data.sets import DataSet, Store, find
from crystalformers.data.sets.entry import RemoteFile
from crystalformers.data.sets.sources import Files
from crystalformers.data.sets.splits import DividedSource, ShuffledSplit, Split
from crystalformers.data.table import CrystalTable

NAN = float("nan")
JARVIS = "jarvis-dft3d-2021"
PATH = "/jarvis-dft3d-2021/jdft_3d-8-18-2021.json.zip"
HTML = b"<!DOCTYPE html><html><body>Access denied</body></html>"


def jarvis_atoms(crystal: Crystal, *, cartesian: bool = False, blanks: bool = False) -> dict[str, Any]:
    """The dictionary of jarvis-tools."""
    return {
        "lattice_mat": crystal.lattice.tolist(),
        "coords": (crystal.positions if cartesian else crystal.frac_coords).tolist(),
        "elements": [f"{symbol} " if blanks else symbol for symbol in crystal.symbols],
        "abc": np.linalg.norm(crystal.lattice, axis=1).tolist(),
        "angles": [60.0, 60.0, 60.0],
        "cartesian": cartesian,
        "props": ["" for _ in crystal.symbols],
    }


def jarvis_rows(count: int) -> list[dict[str, Any]]:
    """Rows of JARVIS-DFT: what is missing is the text 'na'."""
    return [
        {
            "jid": f"JVASP-{k}",
            "formation_energy_peratom": -0.01 * k,
            "optb88vdw_total_energy": -3 if k == 0 else -3.0 - k,
            "optb88vdw_bandgap": 0.0,
            "mbj_bandgap": 1.5 + k if k % 3 else "na",
            "ehull": "na" if k % 7 == 5 else 0.001 * k,
            "bulk_modulus_kv": "na",
            "n-Seebeck": -100.0 - k,
            "efg": [],
            "atoms": jarvis_atoms(crystal, cartesian=bool(k % 2)),
        }
        for k, crystal in enumerate(many(count))
    ]


def megnet_rows(count: int) -> list[dict[str, Any]]:
    """Rows of MEGNet's set in the form of jarvis-tools."""
    return [
        {"id": f"mp-{k}", "e_form": -0.5 - k, "gap pbe": 0.1 * k, "mu_b": 0.0, "atoms": jarvis_atoms(crystal)}
        for k, crystal in enumerate(many(count))
    ]


def oqmd_rows(count: int) -> list[dict[str, Any]]:
    """Rows of OQMD: blanks in the species, and gaps that are missing in two ways."""
    gaps = {2: None, 5: NAN}
    return [
        {
            "_oqmd_entry_id": 1000 + k,
            "_oqmd_delta_e": -0.1 * k,
            "_oqmd_band_gap": gaps.get(k % 10, 0.5),
            "_oqmd_stability": 0.02 * k,
            "atoms": jarvis_atoms(crystal, blanks=True),
        }
        for k, crystal in enumerate(many(count))
    ]


def zipped(member: str, content: bytes) -> bytes:
    """A zip archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED)  # without the time of day
    return buffer.getvalue()


def zipped_json(member: str, rows: Sequence[Any]) -> bytes:
    """A zip archive of a JSON array, with NaN as Python writes it."""
    return zipped(member, json.dumps(rows).encode())


def modulus_pickles(count: int, kind: str, protocol: int = 4) -> list[bytes]:
    """The three pickles of a modulus, six tenths and twice two tenths of the rows."""
    rows = [
        {
            "id": f"mp-{k}",
            f"{kind} modulus": np.float64(1.0 + 0.01 * k),
            "atoms": {**jarvis_atoms(crystal), "coords": crystal.frac_coords},
            "e_form": -1.0,
        }
        for k, crystal in enumerate(many(count))
    ]
    ends = [0, 6 * count // 10, 8 * count // 10, count]
    return [pickle.dumps(rows[a:b], protocol=protocol) for a, b in pairwise(ends)]


def pymatgen_dict(crystal: Crystal) -> dict[str, Any]:
    """`Structure.as_dict()`."""
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": frac.tolist(), "xyz": xyz.tolist(), "label": symbol}
        for symbol, frac, xyz in zip(crystal.symbols, crystal.frac_coords, crystal.positions, strict=True)
    ]
    lattice = {"matrix": crystal.lattice.tolist(), "a": 1.0, "b": 1.0, "c": 1.0}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice, "sites": sites}


def matbench_gzip(target: str, count: int) -> bytes:
    """A Matbench file: a pandas table in "split" orientation."""
    data = [[pymatgen_dict(crystal), 100.0 + k] for k, crystal in enumerate(many(count))]
    table = {"index": list(range(count)), "columns": ["structure", target], "data": data}
    return gzip.compress(json.dumps(table).encode(), mtime=0)


def optimade_attributes(crystal: Crystal) -> dict[str, Any]:
    """A structure of OPTIMADE."""
    kinds = sorted(set(crystal.symbols))
    return {
        "lattice_vectors": crystal.lattice.tolist(),
        "cartesian_site_positions": crystal.positions.tolist(),
        "species_at_sites": crystal.symbols,
        "species": [{"name": kind, "chemical_symbols": [kind], "concentration": [1.0]} for kind in kinds],
        "dimension_types": [1, 1, 1],
        "nsites": len(crystal),
    }


def lemat_parquet(count: int, crystals: Sequence[Crystal] = (), *, columns: bool = False) -> bytes:
    """A Parquet file of LeMat-Bulk: OPTIMADE's columns, with the species as text.

    Args:
        count: of crystals of `samples.many`, unless others are given.
        crystals: to take instead.
        columns: write the vectors of the lattice as columns, which is wrong.
    """
    rows = []
    for k, crystal in enumerate(crystals or many(count)):
        attributes = optimade_attributes(crystal)
        if columns:
            attributes["lattice_vectors"] = crystal.lattice.T.tolist()
        attributes["species"] = json.dumps(attributes["species"])
        rows.append({"immutable_id": f"agm{k}", **attributes, "energy": -10.0 * k, "forces": [[0.0] * 3]})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def cif_text(crystal: Crystal) -> str:
    """A CIF file without symmetry."""
    a, b, c = np.linalg.norm(crystal.lattice, axis=1)
    unit = crystal.lattice / np.array([[a], [b], [c]])
    angles = np.degrees(np.arccos([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]))
    lines = ["data_x", *(f"_cell_length_{x} {v:.12f}" for x, v in zip("abc", (a, b, c), strict=True))]
    lines += [f"_cell_angle_{x} {v:.12f}" for x, v in zip(("alpha", "beta", "gamma"), angles, strict=True)]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'", "loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{x}" for x in "xyz"]
    for k, (symbol, frac) in enumerate(zip(crystal.symbols, crystal.frac_coords, strict=True)):
        lines.append(f"{symbol}{k} {symbol} " + " ".join(f"{x:.12f}" for x in frac))
    return "\n".join(lines) + "\n"


def perovskite_zip(path: Path, count: int = 20) -> Path:
    """A zip of CIF files in a folder, with one that is missing and one that cannot be read."""
    table = "".join(f"h{k},{-0.5 * k},{'na' if k == 4 else 0.1 * k}\n" for k in range(count + 2))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hoip/id_prop.csv", table)
        for k, crystal in enumerate(many(count)):
            archive.writestr(f"hoip/h{k}.cif", cif_text(crystal))
        archive.writestr(f"hoip/h{count}.cif", "data_x\n")
    return path


def small(split: Split) -> Split:
    """A published split without its numbers."""
    if isinstance(split, ShuffledSplit):
        return replace(split, sizes=None, published={})
    return DividedSource() if isinstance(split, DividedSource) else split


def play(host: Host, name: str, contents: Sequence[bytes], rows: int | None = None) -> DataSet:
    """A published set whose files lie on a host of ours, each at `/NAME/FILE`; rows are those to be expected."""
    dataset = find(name)
    assert isinstance(dataset.source, Files)
    files = []
    for file, content in zip(dataset.source.files, contents, strict=True):
        path = f"/{name}/{file.name}"
        host.pages[path] = Page(content)
        files.append(RemoteFile(file.name, (f"{host.url}{path}",), file.form))
    return replace(dataset, source=Files(tuple(files)), rows=rows, splits=tuple(map(small, dataset.splits)))


def jarvis(host: Host, count: int = 40) -> DataSet:
    """JARVIS-DFT of so many rows."""
    content = zipped_json("jdft_3d-8-18-2021.json", jarvis_rows(count))
    return play(host, JARVIS, [content], count)


def edited(dataset: DataSet, **changes: object) -> DataSet:
    """The set with another description of its first file."""
    assert isinstance(dataset.source, Files)
    first, *others = dataset.source.files
    return replace(dataset, source=Files((replace(first, **changes), *others)))


def complete(store: Store, dataset: DataSet) -> CrystalTable:
    """Fetch a set, and check that it is whole."""
    store.get(dataset)
    table = open_table(dataset.name)
    assert len(table) == dataset.rows
    assert store.verify(dataset.name) == []
    hidden = [path.name for path in store.folder(dataset.name).rglob(".*")]
    assert hidden == []
    return table
