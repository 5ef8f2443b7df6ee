"""What tests of screening share: inputs, and the rows of a results folder."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from samples import write_poscar

from crystalformers.crystal import Crystal
from crystalformers.screening import Resources, Summary, screen

ONE = Resources(workers=1)
"""Everything in the process of the test."""


def rows_in(folder: Path, kind: str = "predictions") -> list[dict[str, Any]]:
    """The rows of all parts, in order of the parts."""
    return [row for path in sorted((folder / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def screened(source: object, folder: Path, weights: Path, **given: Any) -> Summary:
    """Screen one source in this process, in parts of three."""
    return screen([str(source)], folder, [str(weights)], **{"resources": ONE, "part_size": 3, **given})


def write_folder(folder: Path, crystals: Sequence[Crystal]) -> Path:
    """A folder of POSCARs, named after the crystals."""
    folder.mkdir()
    for crystal in crystals:
        write_poscar(folder / f"{crystal.name}.vasp", crystal)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar archive, compressed if its name says so."""
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_lemat(path: Path, crystals: Sequence[Crystal]) -> Path:
    """A Parquet file of LeMat-Bulk: the columns of OPTIMADE, with the species as text."""
    rows = [
        {
            "immutable_id": f"agm{k}",
            "lattice_vectors": crystal.lattice.tolist(),
            "cartesian_site_positions": crystal.positions.tolist(),
            "species_at_sites": crystal.symbols,
            "species": json.dumps(
                [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in sorted(set(crystal.symbols))]
            ),
            "dimension_types": [1, 1, 1],
            "energy": -10.0 * k,
        }
        for k, crystal in enumerate(crystals)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
