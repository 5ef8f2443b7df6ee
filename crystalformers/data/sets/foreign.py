"""Splits of other people: files of row numbers, checked against the set they are meant for.

Row numbers count the rows of the source from 0, rejected ones included, as jarvis-tools and the papers count them.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalformers.data.sets.convert import GROUP_ROWS, SOURCE_ROW
from crystalformers.data.sets.entry import DataSet
from crystalformers.data.sets.splits import Parts, check_parts, fingerprint
from crystalformers.data.split import SPLIT_COLUMN, SPLIT_NAMES, SPLITS, UNUSED
from crystalformers.errors import TableError

LARGEST = 10**9
"""Row number beyond which a file is no list of rows."""


def read_split(path: Path) -> Parts:
    """The parts of a file: JSON `{"train": [5, 2, ...], "val": ..., "test": ...}`, or CSV with columns part and index.

    Raises:
        TableError: if the file is neither, or a row number is no whole number.
    """
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
        listed = json.loads(text) if path.suffix == ".json" else _from_csv(text)
    except (OSError, ValueError, KeyError) as error:
        remedy = 'give JSON {"train": [...], "val": [...], "test": [...]}, or CSV with the columns part and index'
        raise TableError(
            f"no split can be read ({type(error).__name__}: {error})", where=where, remedy=remedy
        ) from error
    if not isinstance(listed, dict):
        raise TableError(f"the file holds a {type(listed).__name__}, expected parts by name", where=where)
    parts: dict[str, Any] = {}
    for name, rows in listed.items():
        part = SPLIT_NAMES.get(str(name).strip().lower())
        if part not in SPLITS or part in parts:
            raise TableError(f"'{name}' is none of {', '.join(SPLITS)}, or is there twice", where=where)
        if not isinstance(rows, list) or not all(type(row) is int and abs(row) < LARGEST for row in rows):
            raise TableError(f"'{name}' is not a list of row numbers", where=where)
        parts[part] = np.array(rows, dtype=np.int64)
    if not parts.get("train", np.zeros(0)).size:
        raise TableError("there are no rows for train", where=where)
    return {name: parts[name] for name in SPLITS if name in parts}


def _from_csv(text: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in csv.DictReader(text.splitlines()):
        found.setdefault(row["part"], []).append(int(row["index"]))
    return found


def add_split(table: Path, about: dict[str, Any], name: str, parts: Parts, output: Path) -> dict[str, Any]:
    """Write a table with one more split; what is then known of its splits.

    Args:
        table: the converted table of a set.
        about: what is known of the set.
        name: of the split; its column is `split_NAME`.
        parts: its rows.
        output: table to write.

    Raises:
        TableError: if the split does not fit the set: a row that is not there or named twice, or a name that is taken.
    """
    column = f"{SPLIT_COLUMN}_{name}"
    if column in about["splits"]:
        raise TableError(f"there is a split '{name}' already", where=about["name"], remedy="give it another name")
    try:
        check_parts(parts, about["source_rows"])
    except TableError as error:
        remedy = "it belongs to another set, or to another release of this one"
        raise TableError(error.problem, where=about["name"], remedy=remedy) from error
    part_of = np.full(about["source_rows"], UNUSED, dtype=object)
    for part, rows in parts.items():
        part_of[rows] = part
    file = pq.ParquetFile(table)
    *fields, last = file.schema_arrow
    schema = pa.schema([*fields, pa.field(column, pa.string()), last])
    in_table = np.zeros(about["source_rows"], dtype=bool)
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for batch in file.iter_batches(GROUP_ROWS):
            rows = batch.column(SOURCE_ROW).to_numpy()
            in_table[rows] = True
            columns = {field: batch.column(field) for field in batch.schema.names}
            columns[column] = pa.array(part_of[rows], pa.string())
            writer.write(pa.record_batch([columns[field] for field in schema.names], schema=schema))
    facts = {
        part: {"rows": len(rows), "in_table": int(in_table[rows].sum()), "sha256": fingerprint(rows), "published": None}
        for part, rows in parts.items()
    }
    return {**about["splits"], column: facts}


def published_as(dataset: DataSet | None, sha256: str) -> str:
    """The published split and part that has a fingerprint, e.g. `split test`; empty if none has."""
    for split in () if dataset is None else dataset.splits:
        for part, published in split.published.items():
            if published == sha256:
                return f"{SPLIT_COLUMN}_{split.name} {part}" if split.name else f"{SPLIT_COLUMN} {part}"
    return ""
