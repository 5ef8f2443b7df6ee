"""Rows of a source become a Parquet table of the library's layout, a batch at a time.

Two passes: the first writes the rows that can be used and finds out which labels each row has; then the splits can be
drawn, and the second adds them. A row that cannot be used is listed in a side file and never stops the others.

The table: `id`, `n_atoms`, `atomic_numbers` (N), `lattice` (9), `frac_coords` (3N), the labels (unit and basis in the
metadata of their columns), `split` and further `split_NAME` columns, and `source_row`, the row in the source.

R rows of a source, B rows of a batch.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalformers.data.sets.entry import DataSet, Label, Row, SourceFileError
from crystalformers.data.sets.splits import Parts, SourceRows, Split, check_parts, fingerprint
from crystalformers.data.split import SPLIT_COLUMN, UNUSED
from crystalformers.errors import StructureError, TableError
from crystalformers.io.rows import SCHEMA, STRUCTURE, TableRows, rows_from_python
from crystalformers.io.source import Record

TABLE, REJECTED = "table.parquet", "rejected.csv"

BATCH_ROWS = 1024
"""Rows held in memory as Python objects at once."""

GROUP_ROWS = 16 * BATCH_ROWS
"""Rows that are compressed together in the table."""

MISSING = frozenset(("", "na", "NA", "nan", "NaN", "None", "null"))
"""Texts that stand for no value."""

SOURCE_ROW = "source_row"


def convert(dataset: DataSet, sources: Sequence[Path], folder: Path, advance: Callable[[int], None]) -> dict[str, Any]:
    """Write `table.parquet` and `rejected.csv` into a folder.

    Args:
        dataset: what the sources hold.
        sources: its files.
        folder: where to write; it exists and is the caller's to remove if this fails.
        advance: called with the number of rows in each batch that is done.

    Returns:
        `source_rows`: rows of the source; `rows`: of them in the table; `labels`: label -> unit, basis and how many
        rows of the source have a finite value; `splits`: column -> part -> its rows, how many of them are in the
        table, their fingerprint and the published one.

    Raises:
        SourceFileError: if a source is broken, has another number of rows than published, or not one that can be used.
        TableError: if a split does not fit.
    """
    raw = folder / "rows.parquet"
    with (folder / REJECTED).open("w", newline="", encoding="utf-8") as rejected:
        seen, first_problem = _first_pass(dataset, sources, raw, rejected, advance)
    if dataset.rows not in (None, seen.n):
        raise SourceFileError(
            f"the source holds {seen.n} rows, published are {dataset.rows}: it is not the published file",
            where=dataset.name,
            remedy="pass the published one with --from FILE",
        )
    if not pq.read_metadata(raw).num_rows:
        reason = f" (the first: {first_problem})" if first_problem else ""
        raise SourceFileError(f"not one of {seen.n} rows can be used{reason}", where=dataset.name)
    drawn = {_column(split): _draw(split, dataset, seen) for split in dataset.splits}
    in_table = _second_pass(raw, folder / TABLE, drawn, seen)
    raw.unlink()
    splits = {
        _column(split): {
            part: {
                "rows": len(rows),
                "in_table": int(in_table[rows].sum()),
                "sha256": fingerprint(rows),
                "published": split.published.get(part),
            }
            for part, rows in drawn[_column(split)].items()
        }
        for split in dataset.splits
    }
    labels = {
        label.name: {"unit": label.unit, "basis": label.basis, "values": int(seen.labelled[label.name].sum())}
        for label in dataset.labels
    }
    return {"source_rows": seen.n, "rows": int(in_table.sum()), "labels": labels, "splits": splits}


def _first_pass(
    dataset: DataSet, sources: Sequence[Path], raw: Path, rejected: IO[str], advance: Callable[[int], None]
) -> tuple[SourceRows, str]:
    """Write the usable rows with their labels and list the others; what the splits ask about, and the first problem."""
    labels = [pa.field(label.name, pa.float64(), metadata=_metadata(label)) for label in dataset.labels]
    structure = [SCHEMA.field("id"), pa.field("n_atoms", pa.int64()), *(SCHEMA.field(name) for name in STRUCTURE)]
    schema = pa.schema([*structure, *labels, pa.field(SOURCE_ROW, pa.int64())])
    listing = csv.writer(rejected)
    listing.writerow([SOURCE_ROW, "id", "column", "problem"])
    labelled: dict[str, list[NDArray[np.bool_]]] = {label.name: [] for label in dataset.labels}
    parts: list[str] = []
    first_problem = ""
    rows = dataset.read(sources)
    with pq.ParquetWriter(raw, schema) as writer:
        while chunk := list(islice(rows, BATCH_ROWS)):
            first = len(parts)
            names = [row.name or f"row-{first + k}" for k, row in enumerate(chunk)]
            records: list[Record] = [(name, row.crystal, None, []) for name, row in zip(names, chunk, strict=True)]
            batch = rows_from_python(records, [])
            bad = _unusable(TableRows(batch, dataset.name, first))
            listed = [(first + k, names[k], "", problem) for k, problem in bad.items()]
            good = np.setdiff1d(np.arange(len(chunk)), list(bad))
            columns = {name: batch.column(name).take(good) for name in ("id", *STRUCTURE)}
            columns["n_atoms"] = pc.list_value_length(columns["atomic_numbers"])
            columns[SOURCE_ROW] = pa.array(first + good)
            for label in dataset.labels:
                values, wrong = _values(label, chunk)
                listed += [(first + k, names[k], label.name, problem) for k, problem in wrong.items()]
                labelled[label.name].append(np.isfinite(values))
                columns[label.name] = pa.array(values[good], from_pandas=True)
            writer.write(pa.record_batch([columns[name] for name in schema.names], schema=schema))
            listing.writerows(listed)
            first_problem = first_problem or (listed[0][-1] if listed else "")
            parts += [row.part for row in chunk]
            advance(len(chunk))
    has = {name: np.concatenate([np.zeros(0, dtype=bool), *found]) for name, found in labelled.items()}
    return SourceRows(len(parts), has, np.array(parts, dtype="U5")), first_problem


def _metadata(label: Label) -> dict[str, str]:
    return {"unit": label.unit, "basis": label.basis, "source_column": label.source_column}


def _unusable(rows: TableRows) -> dict[int, str]:
    """Why rows of a batch cannot be used, by their place in it."""
    problems = {}
    for row in sorted(rows.suspects):
        try:
            rows[row]
        except StructureError as error:
            problems[row] = str(error)
    return problems


def _values(label: Label, chunk: list[Row]) -> tuple[NDArray[np.float64], dict[int, str]]:
    """The values of a label, (B,), NaN where there is none, and what is wrong with those that are no numbers."""
    found = [row.values.get(label.source_column) for row in chunk]
    numbers = [_number(value) for value in found]
    wrong = {
        k: f"{found[k]!r:.80} is not a number and read as no value"
        for k, number in enumerate(numbers)
        if number is None
    }
    return np.array([math.nan if number is None else number for number in numbers]), wrong


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


def _column(split: Split) -> str:
    return f"{SPLIT_COLUMN}_{split.name}" if split.name else SPLIT_COLUMN


def _draw(split: Split, dataset: DataSet, seen: SourceRows) -> Parts:
    """The parts of a split of a set; raises TableError if it does not fit the rows."""
    try:
        parts = split.parts(seen)
        check_parts(parts, seen.n)
    except TableError as error:
        raise TableError(error.problem, where=f"{dataset.name}, {_column(split)}") from error
    return parts


def _second_pass(raw: Path, table: Path, splits: dict[str, Parts], seen: SourceRows) -> NDArray[np.bool_]:
    """Copy the rows with splits, unique ids and only labels that occur; which rows of the source these are, (R,)."""
    file = pq.ParquetFile(raw)
    empty = {name for name, has in seen.labelled.items() if not has.any()}
    *kept, source_row = (field for field in file.schema_arrow if field.name not in empty)
    schema = pa.schema([*kept, *(pa.field(name, pa.string()) for name in splits), source_row])
    part_of = {name: np.full(seen.n, UNUSED, dtype=object) for name in splits}
    for name, parts in splits.items():
        for part, rows in parts.items():
            part_of[name][rows] = part
    repeated = _repeated(raw)
    in_table = np.zeros(seen.n, dtype=bool)
    with pq.ParquetWriter(table, schema, compression="zstd") as writer:
        for batch in file.iter_batches(GROUP_ROWS):
            rows = batch.column(SOURCE_ROW).to_numpy()
            in_table[rows] = True
            ids = zip(batch.column("id").to_pylist(), rows, strict=True)
            columns = {name: batch.column(name) for name in batch.schema.names}
            columns["id"] = pa.array([f"{name}#{row}" if name in repeated else name for name, row in ids], pa.string())
            columns |= {name: pa.array(part[rows], pa.string()) for name, part in part_of.items()}
            writer.write(pa.record_batch([columns[name] for name in schema.names], schema=schema))
    return in_table


def _repeated(table: Path) -> set[str]:
    """Ids that more than one row has."""
    counts = pc.value_counts(pq.read_table(table, columns=["id"]).column("id"))
    return set(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())
