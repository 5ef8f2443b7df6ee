"""Rows of a source become a Parquet table of the library's layout, a batch at a time.

Two passes: the first writes the rows that can be used and finds out which labels each row has; then the splits can be
drawn, and the second adds them. A row that cannot be used is listed in a side file and never stops the others.

The table: `id`, `n_atoms`, `atomic_numbers` (N), `lattice` (9), `frac_coords` (3N), the labels (unit and basis in the
metadata of their columns), `split` and further `split_NAME` columns, and `source_row`, the row in the source.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalformers.data.sets.entry import DataSet, Label, Row, SourceFileError
from crystalformers.data.sets.splits import Parts, SourceRows, check_parts, fingerprint
from crystalformers.data.split import SPLIT_COLUMN, UNUSED
from crystalformers.errors import StructureError, TableError
from crystalformers.io.rows import SCHEMA, STRUCTURE, TableRows, rows_from_python
from crystalformers.io.tables import Record

TABLE, REJECTED = "table.parquet", "rejected.csv"

BATCH_ROWS = 1024
"""Rows held in memory as Python objects at once."""

GROUP_ROWS = 16 * BATCH_ROWS
"""Rows that are compressed together in the table."""

MISSING = frozenset(("", "na", "NA", "nan", "NaN", "None", "null"))
"""Texts that stand for no value."""

SOURCE_ROW = "source_row"


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        source_rows: rows of the source.
        rows: of them in the table.
        values: label -> rows of the source that have a finite value.
        splits: column -> part -> row numbers in the source, how many of them are in the table, their fingerprint and
            the published one.
    """

    source_rows: int
    rows: int
    values: dict[str, int]
    splits: dict[str, dict[str, dict[str, Any]]]


def convert(dataset: DataSet, sources: Sequence[Path], folder: Path, advance: Callable[[int], None]) -> Converted:
    """Write `table.parquet` and `rejected.csv` into a folder.

    Args:
        dataset: what the sources hold.
        sources: its files.
        folder: where to write; it exists and is the caller's to remove if this fails.
        advance: is told of every number of rows done.

    Raises:
        SourceFileError: if a source is broken, has another number of rows than published, or not one that can be used.
        TableError: if a split does not fit.
    """
    raw = folder / "rows.parquet"
    with closing(_FirstPass(dataset, raw, folder / REJECTED)) as first:
        rows = dataset.read(sources)
        while chunk := list(islice(rows, BATCH_ROWS)):
            first.add(chunk)
            advance(len(chunk))
    seen = first.seen
    if dataset.rows not in (None, seen.n):
        raise SourceFileError(
            f"the source holds {seen.n} rows, published are {dataset.rows}: it is not the published file",
            where=dataset.name,
            remedy="pass the published one with --from FILE",
        )
    if not first.usable:
        reason = f" (the first: {first.first_problem})" if first.first_problem else ""
        raise SourceFileError(f"not one of {seen.n} rows can be used{reason}", where=dataset.name)
    parts = _draw(dataset, seen)
    values = {name: int(has.sum()) for name, has in seen.labelled.items()}
    in_table = np.zeros(seen.n, dtype=bool)
    in_table[_second_pass(raw, folder / TABLE, _columns(seen, parts), [name for name, n in values.items() if n])] = True
    raw.unlink()
    published = {_column(split.name): split.published for split in dataset.splits}
    splits = {
        column: {
            part: {
                "rows": len(rows),
                "in_table": int(in_table[rows].sum()),
                "sha256": fingerprint(rows),
                "published": published[column].get(part),
            }
            for part, rows in drawn.items()
        }
        for column, drawn in parts.items()
    }
    return Converted(seen.n, int(in_table.sum()), values, splits)


class _FirstPass:
    """Writes usable rows with their labels, lists the others, and remembers what the splits ask about."""

    def __init__(self, dataset: DataSet, table: Path, rejected: Path) -> None:
        self._dataset = dataset
        fields = [pa.field("n_atoms", pa.int64())]
        fields += [SCHEMA.field(name) for name in STRUCTURE]
        fields += [pa.field(label.name, pa.float64(), metadata=_metadata(label)) for label in dataset.labels]
        self._schema = pa.schema([SCHEMA.field("id"), *fields, pa.field(SOURCE_ROW, pa.int64())])
        self._writer = pq.ParquetWriter(table, self._schema, compression="zstd")
        self._rejected = rejected.open("w", newline="", encoding="utf-8")
        self._list = csv.writer(self._rejected)
        self._list.writerow([SOURCE_ROW, "id", "column", "problem"])
        self._waiting: list[pa.RecordBatch] = []
        self._labelled: dict[str, list[NDArray[np.bool_]]] = {label.name: [] for label in dataset.labels}
        self._parts: list[NDArray[np.str_]] = []
        self._rows = self.usable = 0
        self.first_problem = ""

    def add(self, chunk: list[Row]) -> None:
        """Take the next rows of the source."""
        names = [row.name or f"row-{self._rows + k}" for k, row in enumerate(chunk)]
        records: list[Record] = [(name, row.crystal, None, []) for name, row in zip(names, chunk, strict=True)]
        batch = rows_from_python(records, [])
        good = self._good(TableRows(batch, self._dataset.name, self._rows))
        values = {label.name: self._values(label, chunk, names) for label in self._dataset.labels}
        for name, column in values.items():
            self._labelled[name].append(np.isfinite(column))
        self._parts.append(np.array([row.part for row in chunk], dtype="U5"))
        arrays = [batch.column("id").take(good), pc.list_value_length(batch.column("atomic_numbers")).take(good)]
        arrays += [batch.column(name).take(good) for name in STRUCTURE]
        arrays += [pa.array(column[good], from_pandas=True) for column in values.values()]
        arrays.append(pa.array(self._rows + good.astype(np.int64)))
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows += len(chunk)
        self.usable += len(good)
        if sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self._flush()

    def _good(self, rows: TableRows) -> NDArray[np.int64]:
        """Rows of a batch that can be used; the others are listed."""
        bad = []
        for row in sorted(rows.suspects):
            try:
                rows[row]
            except StructureError as error:
                bad.append(row)
                self._note(rows.first + row, rows.name(row), "", str(error))
        return np.setdiff1d(np.arange(len(rows)), bad)

    def _values(self, label: Label, chunk: list[Row], names: list[str]) -> NDArray[np.float64]:
        values = np.full(len(chunk), np.nan)
        for k, row in enumerate(chunk):
            value = row.values.get(label.source_column)
            number = _number(value)
            if number is None:
                self._note(self._rows + k, names[k], label.name, f"{value!r:.80} is not a number and read as no value")
            else:
                values[k] = number
        return values

    def _note(self, row: int, name: str, column: str, problem: str) -> None:
        self._list.writerow([row, name, column, problem])
        self.first_problem = self.first_problem or problem

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema), row_group_size=GROUP_ROWS)
        self._waiting = []

    @property
    def seen(self) -> SourceRows:
        """What the splits may ask about."""
        empty = np.zeros(0, dtype=bool)
        labelled = {name: np.concatenate([empty, *has]) for name, has in self._labelled.items()}
        return SourceRows(self._rows, labelled, np.concatenate([np.zeros(0, dtype="U5"), *self._parts]))

    def close(self) -> None:
        """Write what is waiting and close the files."""
        self._flush()
        self._writer.close()
        self._rejected.close()


def _metadata(label: Label) -> dict[str, str]:
    return {"unit": label.unit, "basis": label.basis, "source_column": label.source_column}


def _number(value: Any) -> float | None:
    """A finite number, NaN where there is no value, None where there is something that is not a number."""
    if value is None or (isinstance(value, str) and value.strip() in MISSING):
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else math.nan


def _column(split: str) -> str:
    return f"{SPLIT_COLUMN}_{split}" if split else SPLIT_COLUMN


def _draw(dataset: DataSet, seen: SourceRows) -> dict[str, Parts]:
    """Column -> the parts of each split of a set."""
    drawn = {}
    for split in dataset.splits:
        try:
            drawn[_column(split.name)] = parts = split.parts(seen)
            check_parts(parts, seen.n)
        except TableError as error:
            raise TableError(error.problem, where=f"{dataset.name}, {_column(split.name)}") from error
    return drawn


def _columns(seen: SourceRows, splits: dict[str, Parts]) -> dict[str, NDArray[np.object_]]:
    """Column -> what it says of each row of the source."""
    columns = {}
    for name, parts in splits.items():
        columns[name] = np.full(seen.n, UNUSED, dtype=object)
        for part, rows in parts.items():
            columns[name][rows] = part
    return columns


def _second_pass(
    raw: Path, table: Path, splits: dict[str, NDArray[np.object_]], labels: list[str]
) -> NDArray[np.int64]:
    """Copy the rows with splits, unique ids and only labels that occur; gives their row numbers in the source."""
    file = pq.ParquetFile(raw)
    repeated = _repeated(raw)
    keep = ["id", "n_atoms", *STRUCTURE, *labels]
    fields = [file.schema_arrow.field(name) for name in keep]
    fields += [pa.field(name, pa.string()) for name in splits]
    schema = pa.schema([*fields, file.schema_arrow.field(SOURCE_ROW)])
    rows: list[NDArray[np.int64]] = []
    with pq.ParquetWriter(table, schema, compression="zstd") as writer:
        for group in _groups(file):
            source_row = group.column(SOURCE_ROW).to_numpy()
            ids = group.column("id").to_pylist()
            ids = [f"{name}#{row}" if name in repeated else name for name, row in zip(ids, source_row, strict=True)]
            arrays = [pa.array(ids, pa.string()), *(group.column(name) for name in keep[1:])]
            arrays += [pa.array(split[source_row], pa.string()) for split in splits.values()]
            writer.write_table(pa.Table.from_arrays([*arrays, group.column(SOURCE_ROW)], schema=schema))
            rows.append(source_row)
    return np.concatenate(rows)


def _groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    return (file.read_row_group(k) for k in range(file.num_row_groups) if file.metadata.row_group(k).num_rows)


def _repeated(table: Path) -> set[str]:
    """Ids that more than one row has."""
    counts = pc.value_counts(pq.read_table(table, columns=["id"]).column("id"))
    return set(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())
