"""Pandas frames and series of structures; whoever has one has imported pandas."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pyarrow as pa

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io.cells import crystal_of_row, crystal_of_text, is_structure_text
from crystalformers.io.files import as_crystal
from crystalformers.io.rejected import Rejected
from crystalformers.io.rows import STRUCTURE
from crystalformers.io.source import ID_COLUMNS, NO_LABELS, STRUCTURE_COLUMNS, Record, Source, batches_of, label_text

if TYPE_CHECKING:
    import pandas as pd

FRAME = Path("DataFrame")
"""What a frame is called in messages."""


def is_frame(table: Any) -> TypeGuard[pd.DataFrame]:
    """Whether an object is a pandas frame."""
    return "pandas" in sys.modules and isinstance(table, sys.modules["pandas"].DataFrame)


def is_series(table: Any) -> TypeGuard[pd.Series[Any]]:
    """Whether an object is a pandas series."""
    return "pandas" in sys.modules and isinstance(table, sys.modules["pandas"].Series)


def open_frame(frame: pd.DataFrame) -> Source:
    """A frame as a table, with the columns of the tables on disk; `structure` and `cif` are as in `crystal_of_cell`.

    The id of a row is that of the column `id` or `material_id`, else its label in the index.

    Raises:
        TableError: if the frame has no structures, or a name of a column twice.
    """
    names = _checked_names(frame)
    values = {name: frame.iloc[:, k].tolist() for k, name in enumerate(names)}
    ids = _ids(frame)
    labels = [name for name in names if name not in NO_LABELS and _holds_single_values(values[name])]

    def record(row: int, wanted: Sequence[str]) -> Record:
        formula = label_text(values["formula"][row]) if "formula" in values else None
        cells = {name: column[row] for name, column in values.items()}
        return ids[row], partial(_crystal, cells, ids[row]), formula, [_label(cells[name]) for name in wanted]

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return batches_of((record(row, wanted) for row in range(len(frame))), wanted)

    return Source(FRAME, labels, batches, len(frame))


def structures_of(table: Any) -> Iterator[Crystal | Rejected]:
    """The structure of each entry of a frame, a series or a sequence; `Rejected` for one that cannot be used.

    Raises:
        TableError: if a frame has no structures.
    """
    if is_frame(table):
        names, ids = _checked_names(table), _ids(table)
        cells = (dict(zip(names, row, strict=True)) for row in table.itertuples(index=False, name=None))
        makers = (partial(_crystal, row) for row in cells)
    else:
        ids = _ids(table) if is_series(table) else [_name(one, k) for k, one in enumerate(table)]
        makers = (partial(crystal_of_cell, one) for one in table)
    for name, crystal in zip(ids, makers, strict=True):
        try:
            yield crystal(name)
        except StructureError as error:
            yield Rejected.of(name, error)


def crystal_of_cell(cell: Any, name: str) -> Crystal:
    """The crystal of a cell of a frame: the text of a CIF, a pymatgen dictionary, or what `as_crystal` takes.

    Raises:
        StructureError: if the cell is empty, or holds no structure that can be used.
    """
    if _is_missing(cell):
        raise StructureError("there is no structure", where=name, remedy="add it or leave the row out")
    if isinstance(cell, str) and is_structure_text(cell):
        return crystal_of_text(cell, name)
    return as_crystal(cell, name)


def _crystal(row: Mapping[str, Any], name: str) -> Crystal:
    column = next((column for column in STRUCTURE_COLUMNS if column in row), None)
    return crystal_of_row(row, name) if column is None else crystal_of_cell(row[column], name)


def _checked_names(frame: pd.DataFrame) -> list[str]:
    """The names of the columns.

    Raises:
        TableError: if two are equal, or none holds structures.
    """
    names = [str(name) for name in frame.columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TableError(f"the column name '{twice}' is repeated", where=str(FRAME), remedy="rename one")
    if not any(name in names for name in STRUCTURE_COLUMNS) and not all(name in names for name in STRUCTURE):
        problem = f"there is no column {' or '.join(map(repr, STRUCTURE_COLUMNS))}; the columns are {', '.join(names)}"
        raise TableError(problem, where=str(FRAME), remedy="rename the column that holds the structures")
    return names


def _ids(table: pd.DataFrame | pd.Series[Any]) -> list[str]:
    column = next((name for name in ID_COLUMNS if is_frame(table) and name in table.columns), None)
    return [str(name) for name in (table.index if column is None else table[column])]


def _name(structure: Any, index: int) -> str:
    return getattr(structure, "name", "") or f"structure {index}"


def _holds_single_values(column: Sequence[Any]) -> bool:
    return all(_is_missing(value) or isinstance(value, str | int | float) or hasattr(value, "item") for value in column)


def _is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN or pandas's NA."""
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _label(value: Any) -> str | None:
    return None if _is_missing(value) else label_text(value)
