"""Tables of crystals as streams of batches: Parquet, CSV next to structure files, JSON lines."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io.files import format_of, known_endings, read_crystal
from crystalformers.io.objects import from_pymatgen_dict
from crystalformers.io.rows import SCHEMA, STRUCTURE, flat_lists, rows_from_python
from crystalformers.io.text import excerpt, plain_name, read_lines

BATCH_ROWS = 1024
"""Rows held in memory at once while a table streams."""

ID_COLUMNS = ("id", "material_id")
HEADERLESS_LABEL = "target"
"""Name of the value column of a CSV without header line (the `id_prop.csv` of CGCNN)."""

Record = tuple[str, Callable[[], Crystal], str | None, list[str | None]]


@dataclass(frozen=True)
class Source:
    """A table on disk.

    Attributes:
        path: the file.
        labels: its columns that describe neither structure nor id.
        batches: streams the rows as batches with the columns of `SCHEMA` and the labels asked for.
        n_rows: number of rows, None where only reading the file tells.
    """

    path: Path
    labels: list[str]
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    n_rows: int | None = None


def open_source(path: Path) -> Source:
    """A table by the end of its name: `.parquet`, `.csv`, `.jsonl` (the latter two also `.gz`).

    Raises:
        TableError: if the file is missing, empty, of another kind or lacks a column.
    """
    if not os.path.isfile(path):
        raise TableError("no such file", where=str(path))
    if path.stat().st_size == 0:
        raise TableError("the file is empty", where=str(path))
    opener = _opener(path)
    if opener is None:
        raise TableError("not a table; known are .parquet, .csv and .jsonl", where=str(path))
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
    """Whether a file is a table by its name."""
    return _opener(path) is not None


def _opener(path: Path) -> Callable[[Path], Source] | None:
    return TABLES.get(Path(plain_name(path)).suffix)


# Parquet


def _open_parquet(path: Path) -> Source:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
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
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
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

    return Source(path, labels, batches, file.metadata.num_rows)


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


# CSV next to structure files


def _open_csv(path: Path) -> Source:
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

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = (
            (
                row[""].strip(),
                partial(_structure_of, path.parent, row[""].strip()),
                row.get("formula") or None,
                [row[label].strip() or None for label in wanted],
            )
            for row in records()
        )
        return _batches(rows, wanted)

    return Source(path, [label for label in labels if label != "formula"], batches)


def _structure_of(folder: Path, name: str) -> Crystal:
    """The structure that an id of a CSV means: a file of that name, or of that name and a known ending."""
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


# JSON lines


def _open_jsonl(path: Path) -> Source:
    """Labels are known only after the whole file is seen, hence a first pass."""
    seen: dict[str, None] = {}
    n_rows = 0
    for row in _json_rows(path):
        n_rows += 1
        if isinstance(row, dict):
            seen |= dict.fromkeys(key for key, value in row.items() if not isinstance(value, list | dict))
    labels = [name for name in seen if name not in {*ID_COLUMNS, "n_atoms", "structure", *SCHEMA.names}]

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return _batches((_json_record(i, row, wanted) for i, row in enumerate(_json_rows(path))), wanted)

    return Source(path, labels, batches, n_rows)


def _json_rows(path: Path) -> Iterator[Any]:
    """The value of each line that is not blank; an exception where a line is not JSON."""
    for line in read_lines(path):
        if line.strip():
            try:
                row = json.loads(line)
                if "\\u" in line:
                    json.dumps(row, ensure_ascii=False).encode()  # fails for half a character, which is no text
                yield row
            except (ValueError, RecursionError) as error:
                yield error


def _json_record(index: int, row: Any, wanted: Sequence[str]) -> Record:
    if not isinstance(row, dict):
        what = f"not valid JSON ({row})" if isinstance(row, Exception) else "not a JSON object"
        error = StructureError(f"the line is {what}", remedy="correct or remove it")
        return f"row {index}", partial(_refuse, error), None, [None] * len(wanted)
    name = next((row[key] for key in ID_COLUMNS if row.get(key) is not None), f"row {index}")
    formula = row.get("formula")
    texts = [_text(row.get(label)) for label in wanted]
    return str(name), partial(_json_crystal, row, str(name)), str(formula) if formula else None, texts


def _refuse(error: StructureError) -> Crystal:
    raise error


def _json_crystal(row: dict[str, Any], name: str) -> Crystal:
    if "structure" in row:
        return from_pymatgen_dict(row["structure"], name)
    missing = [key for key in STRUCTURE if key not in row]
    if missing:
        raise StructureError(
            f"'{missing[0]}' is missing; a row needs 'structure' (a pymatgen dict) or {', '.join(STRUCTURE)}"
        )
    try:
        numbers, lattice, frac = (np.array(row[key], dtype=np.float64).reshape(-1) for key in STRUCTURE)
        if not ((numbers == np.rint(numbers)) & (np.abs(numbers) < 1e9)).all():
            raise ValueError("atomic numbers must be integers")
        return Crystal(numbers.astype(np.int64), frac.reshape(len(numbers), 3), lattice.reshape(3, 3), name)
    except StructureError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise StructureError(
            f"{', '.join(STRUCTURE)} must hold N, 9 and 3N numbers ({str(error).splitlines()[0]})"
        ) from error


def _text(value: Any) -> str | None:
    """A label as text: numbers exactly, true and false as 1 and 0."""
    if isinstance(value, bool):
        return str(int(value))
    return None if value is None else str(value)


def _batches(records: Iterator[Record], labels: Sequence[str]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(records, BATCH_ROWS)):
        yield rows_from_python(chunk, list(labels))


TABLES = {".parquet": _open_parquet, ".csv": _open_csv, ".jsonl": _open_jsonl, ".ndjson": _open_jsonl}
"""What opens a table, by the end of its name without `.gz`."""
