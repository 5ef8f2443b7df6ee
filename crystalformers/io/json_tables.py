"""Tables in JSON: one object a line, the files of Matbench, answers of an OPTIMADE server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from crystalformers.crystal import Crystal
from crystalformers.errors import CrystalformersError, StructureError, TableError
from crystalformers.io.cells import crystal_of_row
from crystalformers.io.json_stream import stream_json
from crystalformers.io.objects import from_optimade
from crystalformers.io.source import Record, Source, batches_of, label_text, labels_of, record
from crystalformers.io.text import open_bytes, read_lines

OPTIMADE_FIELDS = frozenset(
    {
        "nelements",
        "nperiodic_dimensions",
        "nsites",
        "chemical_formula_descriptive",
        "chemical_formula_reduced",
        "chemical_formula_hill",
        "chemical_formula_anonymous",
        "immutable_id",
        "last_modified",
        "type",
    }
)
"""Properties of a structure in OPTIMADE that are single values and no labels."""

JsonRow = tuple[str, Callable[[], Crystal], Mapping[str, Any]]

# JSON lines


def open_json_lines(path: Path) -> Source:
    """JSON lines. Labels are known only after the whole file is seen, hence a first pass."""
    n_rows = 0

    def objects() -> Iterator[dict[str, Any]]:
        nonlocal n_rows
        for row in _lines(path):
            n_rows += 1
            if isinstance(row, dict):
                yield row

    labels = labels_of(objects())

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return batches_of((_line_record(i, row, wanted) for i, row in enumerate(_lines(path))), wanted)

    return Source(path, labels, batches, n_rows)


def _lines(path: Path) -> Iterator[Any]:
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


def _line_record(index: int, row: Any, wanted: Sequence[str]) -> Record:
    if isinstance(row, dict):
        return record(index, row, crystal_of_row, wanted)
    what = f"not valid JSON ({row})" if isinstance(row, Exception) else "not a JSON object"
    error = StructureError(f"the line is {what}", remedy="correct or remove it")
    return f"row {index}", partial(_refuse, error), None, [None] * len(wanted)


def _refuse(error: StructureError) -> Crystal:
    raise error


# One JSON file


def open_json(path: Path) -> Source:
    """A file of Matbench or an answer of an OPTIMADE server, as `json_rows` reads them.

    Raises:
        TableError: if the file is neither.
    """

    def rows() -> Iterator[JsonRow]:
        try:
            with open_bytes(path) as file:
                yield from json_rows(stream_json(file))
        except CrystalformersError:
            raise
        except ValueError as error:
            problem = f"neither a file of Matbench nor an answer of an OPTIMADE server ({error})"
            raise TableError(problem, where=str(path), remedy="write the table as .jsonl") from error

    n_rows = 0

    def values() -> Iterator[Mapping[str, Any]]:
        nonlocal n_rows
        for _, _, row in rows():
            n_rows += 1
            yield row

    labels = [name for name in labels_of(values()) if name not in OPTIMADE_FIELDS]

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        records = ((name, crystal, None, [label_text(row.get(k)) for k in wanted]) for name, crystal, row in rows())
        return batches_of(records, wanted)

    return Source(path, labels, batches, n_rows)


def json_rows(pairs: Iterable[tuple[str | None, Any]]) -> Iterator[JsonRow]:
    """The rows of a table in JSON.

    Matbench: a pandas table of orientation "split", `columns` with `structure` and the target, `data` the rows.
    OPTIMADE: `data` are objects with `id` and `attributes`, the structure and labels.

    Args:
        pairs: what `stream_json` gives: keys of the file with its values, and with each element of an array.

    Yields:
        Name of the row (of Matbench its number, counted from 0), how to get the crystal, its values.

    Raises:
        ValueError: if the rows have another form.
    """
    columns: list[str] = []
    number = 0
    for key, entry in pairs:
        if key == "columns":
            columns.append(str(entry))
        if key != "data":
            continue
        if isinstance(entry, dict) and isinstance(entry.get("attributes"), dict):
            name, values = str(entry.get("id", number)), entry["attributes"]
            yield name, partial(from_optimade, values, name), values
        else:
            name, values = str(number), _matbench_values(columns, entry)
            yield name, partial(crystal_of_row, values, name), values
        number += 1


def _matbench_values(columns: Sequence[str], entry: Any) -> dict[str, Any]:
    if "structure" not in columns:
        raise ValueError(f"there is no column 'structure' among {columns} before the rows")
    if not isinstance(entry, list):
        raise ValueError("a row is not a list")
    return dict(zip(columns, entry, strict=True))
