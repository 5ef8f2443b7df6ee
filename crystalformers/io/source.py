"""What a table is to its readers: a stream of batches of rows, whatever kind of file or frame they come from."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from crystalformers.crystal import Crystal
from crystalformers.errors import TableError
from crystalformers.io.rows import SCHEMA, rows_from_python

BATCH_ROWS = 1024
"""Rows held in memory at once while a table streams."""

ID_COLUMNS = ("id", "material_id")
STRUCTURE_COLUMNS = ("structure", "cif")
"""Columns of one structure each: a pymatgen dictionary or the text of a CIF; in a frame also an object or a path."""

NO_LABELS = frozenset({*ID_COLUMNS, *STRUCTURE_COLUMNS, "n_atoms", *SCHEMA.names})
"""Columns that are never labels."""

CrystalOf = Callable[[Any, str], Crystal]
"""Makes a crystal from a row and its id; may raise StructureError."""

Record = tuple[str, Callable[[], Crystal], str | None, list[str | None]]
"""Id, how to get the crystal, formula, and the labels as text."""


@dataclass(frozen=True)
class Source:
    """A table that can be read.

    Attributes:
        path: the file; for a frame a name for messages.
        labels: its columns that describe neither structure nor id.
        batches: streams the rows as batches with the columns of `SCHEMA` and the labels asked for.
        n_rows: number of rows, None where only reading the file tells.
    """

    path: Path
    labels: list[str]
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    n_rows: int | None = None


def batches_of(records: Iterator[Record], labels: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The records in batches."""
    while chunk := list(islice(records, BATCH_ROWS)):
        yield rows_from_python(chunk, list(labels))


def record(index: int, row: Mapping[str, Any], crystal: CrystalOf, wanted: Sequence[str]) -> Record:
    """The record of a row whose columns have names.

    Args:
        index: of the row, for one without an id.
        row: its values.
        crystal: makes the crystal from the row and its id.
        wanted: the labels to take.
    """
    name = str(next((row[key] for key in ID_COLUMNS if row.get(key) is not None), f"row {index}"))
    formula = row.get("formula")
    texts = [label_text(row.get(label)) for label in wanted]
    return name, partial(crystal, row, name), str(formula) if formula else None, texts


def labels_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The labels that any of the rows has: all single values that describe neither structure nor id."""
    seen: dict[str, None] = {}
    for row in rows:
        seen |= dict.fromkeys(key for key, value in row.items() if not isinstance(value, list | dict))
    return [name for name in seen if name not in NO_LABELS]


def label_text(value: Any) -> str | None:
    """A label as text: numbers exactly, true and false as 1 and 0; None for one that is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value)) if isinstance(value, bool) else str(value)


def renamed(source: Source, names: Mapping[str, str]) -> Source:
    """A table with other names for some of its labels.

    Args:
        source: the table.
        names: the new name of each column that gets one.

    Raises:
        TableError: if there is no such column, or two would have the same name.
    """
    for column in names:
        if column not in source.labels:
            raise no_column(column, source.labels, source.path)
    new = [names.get(column, column) for column in source.labels]
    twice = next((name for name in new if new.count(name) > 1), None)
    if twice is not None:
        problem = f"two columns would have the name '{twice}'"
        raise TableError(problem, where=str(source.path), remedy="give the label another name")
    own = dict(zip(new, source.labels, strict=True))

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in source.batches([own[name] for name in wanted]):
            yield batch.rename_columns([*SCHEMA.names, *wanted])

    return replace(source, labels=new, batches=batches)


def no_column(name: str, known: Sequence[str], path: Path) -> TableError:
    """The error for a label column that is not there, with a similar name if there is one."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    problem = f"there is no column '{name}'.{hint} The label columns are: {', '.join(known) or 'none'}"
    return TableError(problem, where=str(path))
