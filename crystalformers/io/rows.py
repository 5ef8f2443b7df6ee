"""Rows of a table as crystals: the Arrow columns that every kind of table is converted to, and their checks.

R rows of a batch; `atomic_numbers` (N), `frac_coords` (3N) and `lattice` (9: rows a, b, c in Angstrom) are flat
lists of numbers. NumPy sees their memory without a copy, so a batch may lie in a memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crystalformers.crystal import MAX_COORDINATE, MAX_LENGTH, MIN_SOLIDITY, Crystal
from crystalformers.errors import StructureError, TableError, sentence
from crystalformers.io.composition import contradicts, parse_formula
from crystalformers.io.overlap import check, overlapping
from crystalformers.periodic import MAX_ATOMIC_NUMBER

STRUCTURE = {"atomic_numbers": pa.int64(), "lattice": pa.float64(), "frac_coords": pa.float64()}
"""Structure columns and the type of their numbers."""

SCHEMA = pa.schema(
    [("id", pa.string())]
    + [(name, pa.large_list(pa.field("item", kind, nullable=False))) for name, kind in STRUCTURE.items()]
    + [("formula", pa.string()), ("_problem", pa.string()), ("_remedy", pa.string())]
)
"""Columns that precede the labels; `_problem` and `_remedy` tell why a row's structure could not even be read."""


class TableRows:
    """Crystals of one batch of rows.

    Args:
        batch: columns of `SCHEMA`, perhaps others.
        source: file the rows come from, for messages.
        first: number of the batch's first row in that file, counted from 0.
    """

    def __init__(self, batch: pa.RecordBatch, source: str, first: int) -> None:
        self.batch, self.source, self.first = batch, source, first
        self._ptr, self._values = {}, {}
        for name in STRUCTURE:
            self._ptr[name] = batch.column(name).offsets.to_numpy()
            self._values[name] = batch.column(name).values.to_numpy()

    def __len__(self) -> int:
        return self.batch.num_rows

    def name(self, row: int) -> str:
        """The id of a row."""
        return str(self.batch.column("id")[row])

    def __getitem__(self, row: int) -> Crystal:
        """The crystal of a row; raises StructureError naming file, row and id."""
        numbers, lattice, frac = (
            self._values[name][slice(*self._ptr[name][row : row + 2])].copy() for name in STRUCTURE
        )
        if row in self.suspects:
            self._check(row, numbers, lattice, frac)
        return Crystal(numbers, frac.reshape(-1, 3), lattice.reshape(3, 3), self.name(row))

    def _check(
        self,
        row: int,
        numbers: NDArray[np.int64],
        lattice: NDArray[np.float64],
        frac: NDArray[np.float64],
    ) -> None:
        """Raise a StructureError if the row cannot be used."""
        where = f"{self.source} row {self.first + row} ({self.name(row)})"
        problem, remedy = (self.batch.column(name)[row].as_py() for name in ("_problem", "_remedy"))
        if problem is not None:
            raise StructureError(problem, where=where, remedy=remedy or "")
        if len(lattice) != 9 or len(frac) != 3 * len(numbers):
            raise StructureError(
                f"{len(numbers)} atomic numbers, {len(frac)} coordinates and {len(lattice)} lattice numbers do not fit "
                "together; a row needs N, 3N and 9",
                where=where,
            )
        crystal = check(Crystal(numbers, frac.reshape(-1, 3), lattice.reshape(3, 3), where))
        formula = self.batch.column("formula")[row].as_py()
        counts = parse_formula(formula) if formula else None
        if formula and (counts is None or contradicts(counts, crystal.numbers)):
            made_of = ", ".join(sorted(set(crystal.symbols)))
            raise StructureError(
                f"the formula '{formula}' contradicts the {len(crystal)} atoms of the row ({made_of})",
                where=where,
                remedy="correct one of them",
            )

    def numbers(self, row: int) -> NDArray[np.int64]:
        """Atomic numbers of a row as the table gives them, unchecked."""
        return np.asarray(self._values["atomic_numbers"][slice(*self._ptr["atomic_numbers"][row : row + 2])])

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """Atoms of each row, (R,)."""
        return np.diff(self._ptr["atomic_numbers"])

    @cached_property
    def suspects(self) -> frozenset[int]:
        """Rows whose crystal may have to be refused, found without building any: all others need no check."""
        n_atoms = self.n_atoms
        whole = (np.diff(self._ptr["lattice"]) == 9) & (np.diff(self._ptr["frac_coords"]) == 3 * n_atoms)
        bad = ~whole | (n_atoms == 0) | pc.is_valid(self.batch.column("_problem")).to_numpy(zero_copy_only=False)
        numbers = self._values["atomic_numbers"]
        bad |= self._any("atomic_numbers", (numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
        for name, largest in (("frac_coords", MAX_COORDINATE), ("lattice", MAX_LENGTH)):
            bad |= self._any(name, ~(np.abs(self._values[name]) <= largest))  # NaN is not, either
        lattice = np.broadcast_to(np.eye(3), (len(self), 3, 3)).copy()
        where = self._ptr["lattice"][:-1][~bad, None] + np.arange(9)
        lattice[~bad] = self._values["lattice"][where].reshape(-1, 3, 3)
        volume, lengths = np.abs(np.linalg.det(lattice)), np.linalg.norm(lattice, axis=2)
        bad |= volume <= MIN_SOLIDITY * lengths.prod(axis=1)
        for size in np.unique(n_atoms[~bad]):
            rows = np.flatnonzero(~bad & (n_atoms == size))
            where = self._ptr["frac_coords"][rows, None] + np.arange(3 * size)
            frac = self._values["frac_coords"][where].reshape(-1, size, 3)
            kinds = numbers[self._ptr["atomic_numbers"][rows, None] + np.arange(size)]
            bad[rows] = overlapping(kinds, frac, lattice[rows])
        return frozenset(np.flatnonzero(bad | self._wrong_formula(~bad)).tolist())

    def _any(self, column: str, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether any of a row's values is flagged, (R,)."""
        total = np.concatenate([[0], np.cumsum(flags)])
        return np.diff(total[self._ptr[column]]) > 0

    def _wrong_formula(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows (among those flagged) whose formula contradicts their atoms, (R,)."""
        formulas = self.batch.column("formula").to_pylist()
        numbers, ptr = self._values["atomic_numbers"], self._ptr["atomic_numbers"]
        result = np.zeros(len(self), dtype=bool)
        for row in np.flatnonzero(rows):
            if formulas[row]:
                counts = parse_formula(formulas[row])
                result[row] = counts is None or contradicts(counts, numbers[ptr[row] : ptr[row + 1]])
        return result


def flat_lists(column: pa.Array, name: str, source: str) -> pa.LargeListArray:
    """A column of lists of numbers as the type of `SCHEMA`: no nulls, no slices, nothing nested."""
    kind = STRUCTURE[name]
    try:
        lists = column.cast(pa.large_list(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise TableError(
            f"column '{name}' must hold flat lists of numbers, its type is {column.type}", where=source
        ) from error
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = pc.fill_null(lists.flatten(), 0 if pa.types.is_integer(kind) else np.nan)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values, type=SCHEMA.field(name).type)


def rows_from_python(
    records: list[tuple[str, Callable[[], Crystal], str | None, list[str | None]]], labels: list[str]
) -> pa.RecordBatch:
    """A batch from (id, how to get the crystal, formula, labels as text) of each row."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for name, crystal_of, formula, _ in records:
        crystal, problem, remedy = None, None, None
        try:
            crystal = crystal_of()
        except StructureError as error:
            problem, remedy = sentence(error.problem, error.where), error.remedy
        columns["id"].append(name)
        columns["atomic_numbers"].append([] if crystal is None else crystal.numbers)
        columns["lattice"].append([] if crystal is None else crystal.lattice.reshape(-1))
        columns["frac_coords"].append([] if crystal is None else crystal.frac_coords.reshape(-1))
        columns["formula"].append(formula)
        columns["_problem"].append(problem)
        columns["_remedy"].append(remedy)
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    texts = list(zip(*(texts for *_, texts in records), strict=True)) if labels else []
    arrays += [pa.array(values, pa.string()) for values in texts]
    fields = [pa.field(label, pa.string()) for label in labels]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*SCHEMA, *fields]))
