"""A table of crystals and labels with random access, whatever its size.

Every kind of table is converted once, batch by batch, to an uncompressed Arrow file that is then memory-mapped.
Parquet itself gives a row only by decoding the whole row group around it (all 35,000 rows of a typical file), and
structure files would be parsed again in every epoch. Of the mapped file the operating system keeps the pages that
are in use, so a table may be larger than memory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.data.split import SPLIT_COLUMN, SPLIT_NAMES, SPLITS
from crystalformers.errors import StructureError, TableError
from crystalformers.html import html_table
from crystalformers.io.pandas_tables import is_frame, open_frame
from crystalformers.io.rejected import Rejected
from crystalformers.io.rows import STRUCTURE, TableRows
from crystalformers.io.source import Source, no_column, renamed
from crystalformers.io.tables import open_source

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS = 6
"""In a notebook."""


def open_table(
    path: Path | str | pd.DataFrame,
    scratch: Path | str | None = None,
    split: str = "",
    labels: Mapping[str, str] | None = None,
) -> CrystalTable:
    """Open a table on disk, a public data set by its name, or a pandas frame. docs/tables.md shows each.

    Args:
        path: the table; or the name of a data set that has been fetched (`crystalformers data list`); or a frame.
            Parquet, JSON lines and frames: `id` or `material_id`, `atomic_numbers` (N), `lattice` (9: rows a, b, c in
            Angstrom), `frac_coords` (3N), optionally `formula`, then labels; or, instead of the numbers, a column
            `structure` of pymatgen dictionaries or a column `cif` of the text of CIFs. CSV: the id first, naming a
            structure file in the folder of the table, then labels; without a header line id and one value, then
            called `target`. Also a folder as CGCNN takes it, a file of Matbench or an answer of an OPTIMADE server
            (`.json`), and a database of ASE (`.db`).
        scratch: directory for the converted file (about the size of the decoded table); by default that of
            temporary files. The file is removed once it is open, so that nothing is left behind.
        split: which split of a table with several: `NAME` for the column `split_NAME`, empty for `split`.
        labels: other names for columns, `{"gap pbe": "band_gap"}`.

    Raises:
        TableError: if the table is empty, lacks a column, cannot be read or holds an id twice.
        DataSetError: if the data set has not been fetched.
    """
    from crystalformers.data.sets import locate

    source = open_frame(path) if is_frame(path) else open_source(locate(cast("Path | str", path)))
    if labels:
        source = renamed(source, labels)
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        store = Path(folder) / "table.arrow"
        _convert(source, store)
        return CrystalTable(source, pa.ipc.open_file(pa.memory_map(os.fspath(store))), split)


def _convert(source: Source, store: Path) -> None:
    """Write the rows of a table, labels included, to an uncompressed Arrow file."""
    batches = source.batches(source.labels)
    try:
        first = next(batches, None)
        if first is None or first.num_rows == 0:
            raise TableError("the table has no rows", where=str(source.path))
        with pa.ipc.new_file(os.fspath(store), first.schema) as writer:
            writer.write(first)
            for batch in batches:
                writer.write(batch)
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"the table cannot be converted ({error})", where=str(source.path)) from error


class CrystalTable:
    """Crystals and labels of a table, by row number; made by `open_table`.

    Attributes:
        path: the file it was read from.
        columns: names of the labels: all columns but id, structure and formula.
        ids: one per row, no two equal.
    """

    def __init__(self, source: Source, file: pa.RecordBatchFileReader, split: str = "") -> None:
        self.path = source.path
        self._split_column = f"{SPLIT_COLUMN}_{split}" if split else SPLIT_COLUMN
        self.columns = list(source.labels)
        self._rows: list[TableRows] = []
        self.ids: list[str] = []
        for batch in map(file.get_batch, range(file.num_record_batches)):
            self._rows.append(TableRows(batch, str(self.path), len(self.ids)))
            self.ids += batch.column("id").to_pylist()
        self._first = [rows.first for rows in self._rows]
        self._check_ids()

    def _check_ids(self) -> None:
        remedy = "give every row an id of its own"
        seen: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            if not name:
                raise TableError("the id is missing", where=f"{self.path} row {row}", remedy=remedy)
            if name in seen:
                problem = f"rows {seen[name]} and {row} have the same id '{name}'"
                raise TableError(problem, where=str(self.path), remedy=remedy)
            seen[name] = row

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Crystal:
        """The crystal of a row, named by its id; raises StructureError naming file and row."""
        rows, row = self._place(row)
        return rows[row]

    def _repr_html_(self) -> str:
        """What a notebook shows: the first rows."""
        first = range(min(len(self), SHOWN_ROWS))
        columns = [self._array(name).slice(0, len(first)).to_pylist() for name in self.columns]
        rows = [(self.ids[row], len(self.numbers(row)), *(column[row] for column in columns)) for row in first]
        about = f"{len(self)} rows; the first {len(first)}:"
        return html_table(self.path.name, about, ("id", "atoms", *self.columns), rows)

    def numbers(self, row: int) -> NDArray[np.int64]:
        """Atomic numbers of a row as the table gives them, unchecked, read-only; empty if the row could not be read."""
        rows, row = self._place(row)
        return rows.numbers(row)

    def _place(self, row: int) -> tuple[TableRows, int]:
        """The batch that holds a row, and where in it."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path} has {len(self)} rows, there is no row {row}.")
        row %= len(self)
        batch = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._rows[batch], row - self._first[batch]

    def __iter__(self) -> Iterator[Crystal]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def n_atoms(self) -> NDArray[np.int64]:
        """Atoms of each row, (rows,); 0 where the structure could not be read."""
        return np.concatenate([rows.n_atoms for rows in self._rows]).astype(np.int64)

    def check_rows(self) -> dict[int, Rejected]:
        """Row number -> why the row cannot be used, for every such row: what `table[row]` would raise.

        Checks whole batches at once, some 10,000 rows a second.
        """
        rejected = {}
        for rows in self._rows:
            for row in sorted(rows.suspects):
                try:
                    rows[row]
                except StructureError as error:
                    rejected[rows.first + row] = Rejected.of(rows.name(row), error)
        return rejected

    def column(self, name: str) -> list[Any]:
        """Values of a column as Python objects, None where missing; raises TableError if there is none such."""
        return self._array(name).to_pylist()

    def labels(self, name: str) -> NDArray[np.float64]:
        """Values of a column as numbers, (rows,); NaN where missing.

        Raises:
            TableError: if there is no such column, or a value is not a number (naming its row).
        """
        array = self._array(name)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return self._numbers_from_text(name, array)
        try:
            return np.asarray(pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(
                f"column '{name}' holds no numbers, its type is {array.type}",
                where=str(self.path),
                remedy="choose another",
            ) from error

    def _numbers_from_text(self, name: str, array: pa.Array) -> NDArray[np.float64]:
        values = np.full(len(self), np.nan)
        for row, text in enumerate(array.to_pylist()):
            if text is None or not text.strip():
                continue
            try:
                values[row] = float(text)
            except ValueError:
                raise TableError(
                    f"'{text}' in column '{name}' is not a number",
                    where=f"{self.path} row {row} ({self.ids[row]})",
                    remedy="correct it or leave it empty",
                ) from None
        return values

    def _array(self, name: str) -> pa.Array:
        if name not in self.columns:
            raise no_column(name, self.columns, self.path)
        chunks = [rows.batch.column(name) for rows in self._rows]
        array = pa.chunked_array(chunks).combine_chunks()
        return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array

    @cached_property
    def split(self) -> list[str] | None:
        """`train`, `val`, `test` or `unused` of each row from the column `split`; None if the table has no such column.

        Raises:
            TableError: naming the first row whose value is none of these; if there is no split of the name asked for.
        """
        if self._split_column not in (SPLIT_COLUMN, *self.columns):
            raise TableError(f"there is no column '{self._split_column}'", where=str(self.path))
        if self._split_column not in self.columns:
            return None
        values = self.column(self._split_column)
        split = [SPLIT_NAMES.get(str(value).strip().lower()) for value in values]
        if None in split:
            row = split.index(None)
            raise TableError(
                f"'{values[row]}' in column '{self._split_column}' is none of {', '.join(SPLITS)}",
                where=f"{self.path} row {row} ({self.ids[row]})",
                remedy="correct it",
            )
        return [name for name in split if name]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, structures, labels and chosen split, whatever kind of file they came from; 32 hex digits."""
        digest = hashlib.blake2b(digest_size=16)
        if self._split_column != SPLIT_COLUMN:
            digest.update(self._split_column.encode())
        for name in ("id", *STRUCTURE, "formula", *self.columns):
            digest.update(name.encode())
            for rows in self._rows:
                column = rows.batch.column(name)
                if name in STRUCTURE:
                    digest.update(np.diff(column.offsets.to_numpy()).tobytes())
                    digest.update(column.values.to_numpy().tobytes())  # noqa: PD011 - Arrow
                else:
                    digest.update(repr(column.to_pylist()).encode())
        return digest.hexdigest()
