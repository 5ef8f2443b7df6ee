"""Tables of crystals as streams of batches: every kind of file, and the reader of Parquet."""

from __future__ import annotations

import csv
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from crystalformers.errors import StructureError, TableError
from crystalformers.io.ase_files import open_database, open_frames
from crystalformers.io.cells import crystal_of_row
from crystalformers.io.csv_tables import open_cgcnn, open_csv
from crystalformers.io.json_tables import open_json, open_json_lines
from crystalformers.io.rows import SCHEMA, STRUCTURE, flat_lists
from crystalformers.io.source import BATCH_ROWS, ID_COLUMNS, NO_LABELS, STRUCTURE_COLUMNS, Source, batches_of, record
from crystalformers.io.text import plain_name


def open_source(path: Path) -> Source:
    """A table by the end of its name (`TABLES`), or a folder as CGCNN takes it.

    Raises:
        TableError: if the file is missing, empty, of another kind or lacks a column.
    """
    if os.path.isdir(path):
        return _opened(path, open_cgcnn)
    if not os.path.isfile(path):
        raise TableError("no such file", where=str(path))
    if path.stat().st_size == 0:
        raise TableError("the file is empty", where=str(path))
    kind = _kind(path)
    if kind is None:
        raise TableError(f"not a table; known are {KNOWN}", where=str(path))
    return _opened(path, kind.open)


def _opened(path: Path, opener: Callable[[Path], Source]) -> Source:
    with _named_errors(path):
        source = opener(path)
    return replace(source, batches=partial(_guarded, source))


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Errors of the file system, of decompression and of Arrow, as one sentence that names the table."""
    try:
        yield
    except StructureError as error:  # the text of the table, not one of its structures
        raise TableError(error.problem, where=error.where, remedy=error.remedy) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise TableError(f"the table cannot be read ({error})", where=str(path), remedy="write it again") from error


def _guarded(source: Source, labels: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The batches of a table; whatever fails on the way becomes a TableError."""
    with _named_errors(source.path):
        yield from source.batches(labels)


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name, and no structure file."""
    kind = _kind(path)
    return kind is not None and not kind.structures


def _kind(path: Path) -> TableKind | None:
    return TABLES.get(Path(plain_name(path)).suffix)


# Parquet


def open_parquet(path: Path, rows: range | None = None, file: IO[bytes] | None = None) -> Source:
    """A Parquet table, or some of its rows; only the row groups that hold them are read.

    Args:
        path: the file; a name for messages if it is open already.
        rows: consecutive rows, counted from 0; all by default.
        file: the file, open for reading, wherever it is.

    Raises:
        TableError: if it cannot be read or lacks a column.
    """
    return _opened(path, partial(_open_parquet, rows=rows, opened=file))


def _open_parquet(path: Path, rows: range | None = None, opened: IO[bytes] | None = None) -> Source:
    file = pq.ParquetFile(path if opened is None else opened)
    rows = range(file.metadata.num_rows) if rows is None else rows
    names = file.schema_arrow.names
    if not set(STRUCTURE) <= set(names) and set(STRUCTURE_COLUMNS) & set(names):
        return _open_parquet_of_structures(path, file, rows)
    id_column = next((name for name in ID_COLUMNS if name in names), None)
    missing = ([] if id_column else ["id"]) + [name for name in STRUCTURE if name not in names]
    if missing:
        raise TableError(
            f"column '{missing[0]}' is missing; a table needs id, {', '.join(STRUCTURE)}, this one has "
            f"{', '.join(names)}",
            where=str(path),
        )
    labels = [name for name in names if name not in {id_column, "n_atoms", *SCHEMA.names}]

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        columns = [name for name in names if name in {id_column, "formula", *STRUCTURE, *wanted}]
        for batch in batches_of_rows(file, rows, columns):
            nothing = pa.nulls(batch.num_rows, pa.string())
            ids, problems = _texts(batch.column(id_column), nothing)
            formulas, problems = (
                _texts(batch.column("formula"), problems) if "formula" in columns else (nothing, problems)
            )
            arrays = [ids, *(flat_lists(batch.column(name), name, str(path)) for name in STRUCTURE)]
            arrays += [formulas, problems, nothing]  # no remedy
            for name in wanted:
                batch.column(name).validate(full=True)
            arrays += [batch.column(name) for name in wanted]
            fields = [batch.schema.field(name) for name in wanted]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*SCHEMA, *fields]))

    return Source(path, labels, batches, len(rows))


def _open_parquet_of_structures(path: Path, file: pq.ParquetFile, rows: range) -> Source:
    """Parquet with a column of structures: text of CIFs, or pymatgen dictionaries."""
    labels = [
        field.name for field in file.schema_arrow if field.name not in NO_LABELS and not pa.types.is_nested(field.type)
    ]

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        columns = [name for name in file.schema_arrow.names if name in {*NO_LABELS, *wanted}]
        listed = (row for batch in batches_of_rows(file, rows, columns) for row in batch.to_pylist())
        return batches_of((record(k, row, crystal_of_row, wanted) for k, row in enumerate(listed, rows.start)), wanted)

    return Source(path, labels, batches, len(rows))


def batches_of_rows(file: pq.ParquetFile, rows: range, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Consecutive rows of a Parquet file in batches; row groups without any of them are not read."""
    lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = list(accumulate(lengths))
    groups = [
        k for k, (end, n) in enumerate(zip(ends, lengths, strict=True)) if end > rows.start and end - n < rows.stop
    ]
    first = ends[groups[0]] - lengths[groups[0]] if groups else 0
    for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns)):
        start, stop = max(rows.start - first, 0), min(rows.stop - first, batch.num_rows)
        if start < stop:
            yield batch.slice(start, stop - start)
        first += batch.num_rows
        if first >= rows.stop:
            return


def _texts(column: pa.Array, problems: pa.Array) -> tuple[pa.Array, pa.Array]:
    """A column as text, and the problems of its rows with those whose bytes are not UTF-8 (written with escapes)."""
    raw = column if pa.types.is_binary(column.type) else column.cast(pa.string()).cast(pa.binary())
    try:
        return raw.cast(pa.string()), problems
    except pa.ArrowInvalid:
        values = raw.to_pylist()
    texts = [None if value is None else value.decode("utf-8", "backslashreplace") for value in values]
    told = [
        f"'{text}' is not UTF-8 text" if text is not None and text.encode() != value else problem
        for text, value, problem in zip(texts, values, problems.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string()), pa.array(told, pa.string())


@dataclass(frozen=True)
class TableKind:
    """A kind of table.

    Attributes:
        open: opens a file of this kind; may raise TableError.
        structures: whether structure files have the same ending, as which files are read where no labels are wanted.
    """

    open: Callable[[Path], Source]
    structures: bool = False


TABLES = {
    ".parquet": TableKind(_open_parquet),
    ".csv": TableKind(open_csv),
    ".jsonl": TableKind(open_json_lines),
    ".ndjson": TableKind(open_json_lines),
    ".json": TableKind(open_json, structures=True),
    ".db": TableKind(open_database),
    ".xyz": TableKind(open_frames, structures=True),
    ".extxyz": TableKind(open_frames, structures=True),
    ".traj": TableKind(open_frames, structures=True),
}
"""The kinds of tables, by the end of their names without `.gz`."""

KNOWN = (
    ".parquet, .csv and .jsonl or .ndjson, .json of Matbench and OPTIMADE, .db, .xyz, .extxyz and .traj of ASE, and "
    "folders with an id_prop.csv"
)
"""The kinds of tables, for messages."""
