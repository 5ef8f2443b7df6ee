"""CSV tables: next to structure files, or with the structures in a column; the folders of CGCNN."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io.cells import crystal_of_text, is_structure_text
from crystalformers.io.files import format_of, known_endings, read_crystal
from crystalformers.io.source import STRUCTURE_COLUMNS, Record, Source, batches_of
from crystalformers.io.text import excerpt, read_lines, text_limit

HEADERLESS_LABEL = "target"
"""Name of the value column of a CSV without header line (the `id_prop.csv` of CGCNN)."""

ROWS_TO_TELL = 100
"""Rows by which a column of structures is known."""

CGCNN_TABLE = "id_prop.csv"
"""The table in a folder as CGCNN takes it, next to its CIFs."""


def open_csv(path: Path) -> Source:
    """A CSV: the id first, then labels, and either structure files beside it or a column of their text."""
    csv.field_size_limit(text_limit())  # of the process; Python's own limit is that of a CIF of 2,000 atoms
    first = next((row for row in csv.reader(read_lines(path)) if any(row)), [])
    header = not (len(first) > 1 and _is_number(first[1]))
    if not header and len(first) != 2:
        raise TableError(
            "a CSV without header line has two columns, id and value",
            where=str(path),
            remedy=f"name the {len(first)} columns in a first line",
        )
    labels = first[1:] if header else [HEADERLESS_LABEL]
    repeated = next((name for name in labels if labels.count(name) > 1 or not name), None)
    if repeated is not None:
        raise TableError(f"the column name '{repeated}' is empty or repeated", where=str(path), remedy="rename one")

    def records() -> Iterator[dict[str, str]]:
        reader = csv.reader(read_lines(path))
        rows = (row for row in reader if any(row))
        for row in islice(rows, int(header), None):
            if len(row) != 1 + len(labels):
                raise TableError(
                    f"{len(row)} fields, expected {1 + len(labels)} (id, {excerpt(', '.join(labels))})",
                    where=f"{path} line {reader.line_num}",
                )
            yield dict(zip(["", *labels], row, strict=True))

    texts = next((name for name in STRUCTURE_COLUMNS if name in labels and _holds_structures(name, records())), "")

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return batches_of((_record(path, row, texts, wanted) for row in records()), wanted)

    return Source(path, [label for label in labels if label not in {"formula", texts}], batches)


def _holds_structures(name: str, rows: Iterator[dict[str, str]]) -> bool:
    """Whether one of the first rows has a structure as text in a column."""
    return any(is_structure_text(row[name]) for row in islice(rows, ROWS_TO_TELL))


def _record(path: Path, row: dict[str, str], texts: str, wanted: Sequence[str]) -> Record:
    name = row[""].strip()
    crystal = partial(crystal_of_text, row[texts], name) if texts else partial(_structure_of, path.parent, name)
    return name, crystal, row.get("formula") or None, [row[label].strip() or None for label in wanted]


def open_cgcnn(folder: Path) -> Source:
    """A folder as CGCNN takes it: `id_prop.csv` next to CIFs.

    Raises:
        TableError: if the folder holds no such table.
    """
    if not (folder / CGCNN_TABLE).is_file():
        problem = f"a folder is a table only if it holds {CGCNN_TABLE}, next to structure files"
        raise TableError(problem, where=str(folder), remedy="name the table in it")
    return open_csv(folder / CGCNN_TABLE)


def _structure_of(folder: Path, name: str) -> Crystal:
    """The structure that an id of a CSV means: a file of that name, or of that name and a known ending."""
    if Path(name).is_absolute() or ".." in Path(name).parts:  # a table of a stranger must not reach other folders
        problem = f"the id {excerpt(name)} leads out of the folder of the table"
        raise StructureError(problem, remedy="put the structure files beside the table, or below it")
    endings = known_endings()
    candidates = [folder / name] + [folder / f"{name}{ending}{gz}" for ending in endings for gz in ("", ".gz")]
    found = [path for path in candidates if os.path.isfile(path) and format_of(path)]  # a name may be too long
    if not found:
        raise StructureError(
            f"no structure file beside the table; expected {excerpt(name)}.cif or {', '.join(endings[1:])}"
        )
    if len(found) > 1:
        raise StructureError(f"{found[0].name} and {found[1].name} both fit the id", remedy="remove one")
    return read_crystal(found[0])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
