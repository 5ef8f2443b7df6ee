"""Readers of the published file formats: each gives the rows of a source, streamed, in the order of its files.

A structure that cannot be read makes its row unusable, not the file; a file that is not what it should be ends in a
SourceFileError.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalformers.crystal import Crystal
from crystalformers.data.sets.archives import open_gzip, open_zip, open_zip_folder, reading
from crystalformers.data.sets.axes import vectors_are_columns
from crystalformers.data.sets.entry import Label, Row, SourceFileError
from crystalformers.data.sets.plain_pickle import read_plain_pickle
from crystalformers.data.split import SPLITS
from crystalformers.errors import StructureError
from crystalformers.io.cif import read_cif_file
from crystalformers.io.composition import atomic_number
from crystalformers.io.json_stream import stream_json
from crystalformers.io.json_tables import json_rows
from crystalformers.io.objects import from_optimade, from_pymatgen_dict, guarded
from crystalformers.io.rejected import Rejected

ID_TABLE = "id_prop.csv"
"""Table of ids and values next to the CIF files of CGCNN and CrystalTransformer."""

PARQUET_ROWS = 1024
"""Rows of a Parquet file decoded at once."""

OPTIMADE_STRUCTURE = ("lattice_vectors", "cartesian_site_positions", "species_at_sites", "species", "dimension_types")
"""Properties of an OPTIMADE structure that make up the crystal."""

Reader = Callable[[Sequence[Path]], Iterator[Row]]


# jarvis-tools: a zip of one JSON array of objects, and pickled lists of the same objects


def jarvis_zip(member: str, id_column: str) -> Reader:
    """Reader of a zip that holds a JSON array of objects with `atoms` and labels.

    Args:
        member: name of the JSON file in the archive.
        id_column: key of the ids.
    """

    def read(paths: Sequence[Path]) -> Iterator[Row]:
        (path,) = paths
        with open_zip(path, member) as file:
            for _, entry in stream_json(file):
                yield _jarvis_row(entry, id_column, path)

    return read


def divided_pickles(id_column: str) -> Reader:
    """Reader of three pickles, for training, validation and test, each a list of objects as in `jarvis_zip`."""

    def read(paths: Sequence[Path]) -> Iterator[Row]:
        for part, path in zip(SPLITS, paths, strict=True):
            entries = read_plain_pickle(path)
            if not isinstance(entries, list):
                raise SourceFileError(f"the pickle holds a {type(entries).__name__}, expected a list", where=str(path))
            for entry in entries:
                yield _jarvis_row(entry, id_column, path, part)

    return read


def _jarvis_row(entry: Any, id_column: str, path: Path, part: str = "") -> Row:
    entry = _object(entry, path)
    name = _text(entry.get(id_column))
    return Row(name, partial(guarded, _from_jarvis, entry.get("atoms"), name), entry, part)


def _from_jarvis(atoms: Any, name: str) -> Crystal:
    """A crystal from lattice_mat, coords, elements (which may carry blanks) and cartesian."""
    numbers = np.array([atomic_number(symbol, name) for symbol in atoms["elements"]], dtype=np.int64)
    lattice = np.array(atoms["lattice_mat"], dtype=np.float64).reshape(3, 3)
    coords = np.array(atoms["coords"], dtype=np.float64).reshape(len(numbers), 3)
    if atoms["cartesian"]:
        return Crystal.from_positions(numbers, coords, lattice, name)
    return Crystal(numbers, coords, lattice, name)


# Matbench: gzip-compressed JSON of a pandas table, "split" orientation


def matbench_gzip(prefix: str, digits: int) -> Reader:
    """Reader of a Matbench file: `columns` are `structure` and the target, `data` the rows.

    Args:
        prefix: of the official ids, e.g. `mb-phonons`.
        digits: of the row number in them, which counts from 1.
    """

    def read(paths: Sequence[Path]) -> Iterator[Row]:
        (path,) = paths
        with open_gzip(path) as file:
            for number, (_, _, values) in enumerate(json_rows(stream_json(file)), start=1):
                name = f"{prefix}-{number:0{digits}d}"
                yield Row(name, partial(from_pymatgen_dict, values["structure"], name), values)

    return read


# CGCNN: a folder of CIF files with a table of ids and values, zipped


def cif_zip(labels: Sequence[Label]) -> Reader:
    """Reader of a zip with a CIF file for each id and `id_prop.csv`: lines of id, value, value... without header.

    Args:
        labels: of the values, in their order.
    """

    def read(paths: Sequence[Path]) -> Iterator[Row]:
        (path,) = paths
        with open_zip_folder(path) as files:
            if ID_TABLE not in files:
                raise SourceFileError(f"the archive holds no {ID_TABLE}", where=str(path))
            for line in csv.reader(files[ID_TABLE]().decode("utf-8-sig").splitlines()):
                if not line:
                    continue
                name, *found = (cell.strip() for cell in line)
                values = {label.source_column: _cell(cell) for label, cell in zip(labels, found, strict=False)}
                content = files[f"{name}.cif"]() if f"{name}.cif" in files else None
                yield Row(name, partial(_from_cif, content, name), values)

    return read


def _cell(text: str) -> float | str:
    """A number where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _from_cif(content: bytes | None, name: str) -> Crystal:
    """The one crystal of a CIF file of an archive."""
    if content is None:
        raise StructureError("the archive holds no CIF file for it", where=name)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "one.cif"
        path.write_bytes(content)
        try:
            found = list(read_cif_file(path))
        except StructureError as error:  # without the name of the temporary file
            raise StructureError(error.problem, where=name, remedy=error.remedy) from error
    if len(found) != 1 or not isinstance(found[0], Crystal):
        rejected = [one.reason for one in found if isinstance(one, Rejected)]
        problem = rejected[0].replace(f"{path}: ", "") if rejected else f"it holds {len(found)} structures"
        raise StructureError(f"its CIF file cannot be used ({problem})", where=name)
    return replace(found[0], name=name)


# OPTIMADE: fields of its structures, in Parquet files or in the pages of an API


def optimade_parquet(id_column: str, labels: Sequence[Label]) -> Reader:
    """Reader of Parquet files whose columns carry the names of OPTIMADE.

    Args:
        id_column: column of the ids.
        labels: columns to read besides the structure.
    """

    def read(paths: Sequence[Path]) -> Iterator[Row]:
        wanted = [id_column, *(label.source_column for label in labels)]
        for path in paths:
            try:
                file = pq.ParquetFile(path)
                names = [name for name in (*OPTIMADE_STRUCTURE, *wanted) if name in file.schema_arrow.names]
                for number, batch in enumerate(file.iter_batches(PARQUET_ROWS, columns=names)):
                    rows = [optimade_row(_text(entry.get(id_column)), entry) for entry in batch.to_pylist()]
                    if number == 0:
                        check_axes(rows, path)
                    yield from rows
            except (OSError, pa.ArrowException) as error:
                raise SourceFileError(
                    f"the file is broken ({error})", where=str(path), remedy="download it again"
                ) from error

    return read


def check_axes(rows: Sequence[Row], path: Path) -> None:
    """Refuse a file whose lattice vectors are the columns of `lattice_vectors`; OPTIMADE has them as rows."""
    if vectors_are_columns(_usable(rows)):
        raise SourceFileError(
            "the lattice vectors of its first rows are the columns of lattice_vectors, expected are rows",
            where=str(path),
            remedy="take another revision of the set, or report it to its publisher",
        )


def _usable(rows: Sequence[Row]) -> Iterator[Crystal]:
    for row in rows:
        with suppress(StructureError):
            yield row.crystal()


def optimade_pages(paths: Sequence[Path]) -> Iterator[Row]:
    """The entries of an OPTIMADE API, as `sources.Optimade` stores them: one page of `data` a line."""
    (path,) = paths
    with reading(path), path.open("rb") as file:
        for line in file:
            for entry in (_object(entry, path) for entry in json.loads(line)["data"]):
                yield optimade_row(_text(entry.get("id")), _object(entry.get("attributes") or {}, path))


def optimade_row(name: str, attributes: Mapping[str, Any]) -> Row:
    """The row of an OPTIMADE structure."""
    return Row(name, partial(from_optimade, attributes, name), attributes)


# Materials Project: documents of its client, one JSON object a line


def materials_project_lines(paths: Sequence[Path]) -> Iterator[Row]:
    """The documents that `sources.MaterialsProject` stores."""
    (path,) = paths
    with reading(path), path.open("rb") as file:
        for line in file:
            entry = _object(json.loads(line), path)
            name = _text(entry.get("material_id"))
            yield Row(name, partial(from_pymatgen_dict, entry.get("structure"), name), entry)


def _object(entry: Any, path: Path) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SourceFileError("a row is not an object", where=str(path))
    return entry


def _text(name: Any) -> str:
    return "" if name is None else str(name)
