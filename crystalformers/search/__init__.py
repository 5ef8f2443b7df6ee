"""Crystals like a given one: an index of the vectors that a model computes, searched exactly, with filters."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, ConfigError
from crystalformers.io import Rejected, formula
from crystalformers.io.composition import atomic_number, parse_formula, reduced_formula
from crystalformers.io.rows import SCHEMA, TableRows, rows_from_python
from crystalformers.io.source import Record
from crystalformers.periodic import SYMBOLS
from crystalformers.prediction.batching import no_progress, windows
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model, network_outputs
from crystalformers.prediction.predictor import WINDOW
from crystalformers.screening.condition import condition
from crystalformers.screening.inputs import Structure
from crystalformers.screening.manifest import PART_SIZE, plan
from crystalformers.screening.parts import PLACE, REJECTED
from crystalformers.search.nearest import VECTORS, Floats, Neighbours, write_projections

__all__ = ["Index", "build_index"]

ABOUT, CRYSTALS, STRUCTURES, REJECTS = "index.json", "crystals.parquet", "structures.arrow", "rejected.parquet"
"""Files of an index: the model and its units; a row for each vector; its structure; those that could not be used."""

DISTANCE, ROW = "distance", "index_row"
"""Columns that a query adds to those of `CRYSTALS`."""


def build_index(
    sources: Sequence[str | Path],
    folder: str | Path,
    model: str | None = None,
    advance: Callable[[int], object] = no_progress,
    device: str = "cpu",
) -> tuple[int, int]:
    """Write an index of crystals; the numbers of crystals and of structures that could not be used.

    Args:
        sources: files, folders and addresses, as of `screening.screen`.
        folder: to write; it appears when all is written.
        model: whose vectors are compared: bundled name, run folder or weight file.
        advance: called with the number of structures each time some are done.
        device: where the vectors are computed, as of `load_model`.

    Raises:
        ConfigError: if the folder exists, or an input does not.
        TableError: if no structure can be used.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError("it exists", where=str(folder), remedy="name another folder, or delete it")
    if model is not None and Path(model).exists():
        model = str(Path(model).absolute())
    loaded, planned = load_model(model, device), plan({}, [str(source) for source in sources], PART_SIZE)
    pieces = (piece for part in planned.parts for piece in part)
    structures = (one for piece in pieces for one in planned.inputs[piece.input].structures(piece))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        new = Path(scratch) / "index"
        new.mkdir()
        counts = _write(loaded, structures, new, advance)
        write_projections(new, _width(loaded))
        about = {"model": loaded.name, "sha256": loaded.fingerprint, "units": loaded.units}
        (new / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        shutil.move(new, folder)
    return counts


def _write(
    model: Model, structures: Iterator[Structure], folder: Path, advance: Callable[[int], object]
) -> tuple[int, int]:
    """Write vectors and tables of crystals and rejected structures; the numbers of both."""
    count, bad = 0, 0
    schema = _schema(model)
    with (
        (folder / VECTORS).open("wb") as vectors,
        pq.ParquetWriter(folder / CRYSTALS, schema) as table,
        pq.ParquetWriter(folder / REJECTS, REJECTED) as rejects,
        pa.ipc.new_file(str(folder / STRUCTURES), SCHEMA) as written,
    ):
        for window in windows(structures, WINDOW):
            places = [one for one in window if isinstance(one.found, Crystal)]
            crystals = [one.found for one in window if isinstance(one.found, Crystal)]
            failed: dict[int, BatchMemoryError] = {}
            found, values = _vectors(model, crystals, failed)
            usable = [k for k in range(len(crystals)) if k not in failed]
            vectors.write(found[usable].tobytes())
            table.write_table(
                _table(schema, [places[k] for k in usable], [crystals[k] for k in usable], values[usable])
            )
            records: list[Record] = [(crystals[k].name, partial(crystals.__getitem__, k), None, []) for k in usable]
            written.write(rows_from_python(records, []))
            rejected = [(one, one.found) for one in window if isinstance(one.found, Rejected)]
            rejected += [(places[k], Rejected.of(crystals[k].name, error)) for k, error in failed.items()]
            columns = [[one.file for one, _ in rejected], [one.row for one, _ in rejected]]
            columns += [[row.name for _, row in rejected], [row.reason for _, row in rejected]]
            rejects.write_table(pa.table(columns, schema=REJECTED))
            count, bad = count + len(usable), bad + len(rejected)
            advance(len(window))
    return count, bad


def _schema(model: Model) -> pa.Schema:
    targets = [pa.field(name, pa.float64(), metadata={"unit": unit}) for name, unit in model.units.items()]
    about = [("name", pa.string()), ("formula", pa.string()), ("elements", pa.string()), ("n_atoms", pa.int64())]
    return pa.schema([*PLACE, *about, *targets])


def _table(
    schema: pa.Schema, places: Sequence[Structure], crystals: Sequence[Crystal], values: NDArray[np.float64]
) -> pa.Table:
    columns = [[one.file for one in places], [one.row for one in places], [crystal.name for crystal in crystals]]
    columns += [[formula(crystal) for crystal in crystals], [_elements(set(crystal.symbols)) for crystal in crystals]]
    return pa.table([*columns, list(map(len, crystals)), *values.T], schema=schema)


def _elements(symbols: set[str]) -> str:
    """Elements as text in which each can be found: ` Cl Na `."""
    return f" {' '.join(sorted(symbols))} "


def _width(model: Model) -> int:
    """Numbers of a vector: those that enter the heads of all members."""
    return sum(vector.shape[1] for vector in _probe(model))


def _probe(model: Model) -> tuple[NDArray[np.float64], ...]:
    salt = Crystal(np.array([11]), np.zeros((1, 3)), 4.0 * np.eye(3))
    return network_outputs([model], [salt], vectors=True)[0].vectors


def _vectors(
    model: Model, crystals: Sequence[Crystal], failed: dict[int, BatchMemoryError] | None = None
) -> tuple[Floats, NDArray[np.float64]]:
    """Vectors that enter the prediction heads, (C, V), and the predicted values, (C, T)."""
    if not crystals:
        return np.zeros((0, 1), np.float32), np.zeros((0, len(model.units)))
    (outputs,) = network_outputs([model], crystals, no_progress, failed, vectors=True)
    joined = np.concatenate(outputs.vectors, axis=1) if outputs.vectors else np.zeros((len(crystals), 1))
    return joined.astype(np.float32), model.values_from(outputs, crystals)


def _without_folder(name: str, file: str) -> str:
    """The name of a crystal, without the folder if it begins with the path of its file."""
    return Path(file).name + name.removeprefix(file) if name.startswith(file) else name


class Index:
    """An index on disk, opened for queries.

    Args:
        folder: as `build_index` wrote it.
        device: where vectors are computed, as of `load_model`.

    Attributes:
        folder: where it lies.
        table: a row for each crystal, with its predicted properties.
        units: unit of each property.

    Raises:
        ConfigError: if it is no index, or its model has changed.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.folder = folder = Path(folder)
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "make one with crystalformers search build"
            raise ConfigError("it is no index", where=str(folder), remedy=remedy) from error
        self.model = load_model(about["model"], device)
        if self.model.fingerprint != about["sha256"]:
            problem = f"the model {about['model']} is another than when it was made"
            raise ConfigError(problem, where=str(folder), remedy="make it again")
        self.table, self.units = pq.read_table(folder / CRYSTALS), dict(about["units"])
        self._neighbours = Neighbours(folder)

    def query(
        self, crystal: Crystal, k: int = 10, where: str = "", formula: str = "", elements: Sequence[str] = ()
    ) -> pa.Table:
        """The crystals whose vectors are nearest, nearest first, with the distance in the first column.

        Args:
            crystal: what to look for; it is found itself if it is in the index.
            k: how many.
            where: condition on predicted properties and `n_atoms`, as of `screening.Choice`.
            formula: of this reduced formula only.
            elements: that hold all of these elements only.

        Raises:
            ConfigError: if a filter makes no sense.
        """
        vector, _ = _vectors(self.model, [crystal])
        rows, distances = self._neighbours.nearest(vector[0], k, self._allowed(where, formula, elements))
        found = self.table.take(rows).add_column(0, DISTANCE, pa.array(distances))
        return found.append_column(ROW, pa.array(rows))

    def crystals(self, found: pa.Table) -> list[Crystal]:
        """The crystals of a table that `query` has returned.

        Raises:
            ConfigError: if the index was made before structures were part of it.
        """
        path = self.folder / STRUCTURES
        if not path.exists():
            raise ConfigError("it holds no structures", where=str(self.folder), remedy="make it again")
        if not found.num_rows:
            return []
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
            rows = pa.Table.from_batches(map(file.get_batch, range(file.num_record_batches))).take(found[ROW])
            (batch,) = rows.combine_chunks().to_batches()
            read = TableRows(batch, str(path), 0)
            return [read[k] for k in range(len(read))]

    def search(self, crystals: Sequence[Crystal], count: int) -> list[list[dict[str, Any]]]:
        """The nearest known crystals of each crystal, as dictionaries: distance, name, formula, n_atoms, properties.

        Crystals that were named after their file have its name without its folder, so that a service can show them.
        """
        columns = [DISTANCE, "name", "formula", "n_atoms", *self.units]
        found = [self.query(crystal, count) for crystal in crystals]
        return [
            [
                {**row, "name": _without_folder(row["name"], file)}
                for row, file in zip(table.select(columns).to_pylist(), table["file"].to_pylist(), strict=True)
            ]
            for table in found
        ]

    def _allowed(self, where: str, wanted: str, elements: Sequence[str]) -> NDArray[np.int64] | None:
        """The rows that pass all filters; None for all."""
        filters = [condition(where, ["n_atoms", *self.units])] if where else []
        if wanted:
            counts = parse_formula(wanted)
            if counts is None or any(count % 1 for count in counts.values()):
                problem = f"'{wanted}' is no formula in whole numbers"
                raise ConfigError(problem, where="formula", remedy="write one as in SrTiO3")
            whole = {SYMBOLS[z - 1]: int(count) for z, count in counts.items()}
            filters.append(pc.field("formula") == reduced_formula(whole))
        for symbol in elements:
            known = SYMBOLS[atomic_number(symbol, "elements") - 1]
            filters.append(pc.match_substring(pc.field("elements"), f" {known} "))
        if not filters:
            return None
        numbered = self.table.append_column("_row", pa.array(np.arange(self.table.num_rows)))
        for one in filters:
            numbered = numbered.filter(one)
        return np.asarray(numbered["_row"].to_numpy(), dtype=np.int64)
