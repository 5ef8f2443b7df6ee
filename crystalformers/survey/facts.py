"""What a table holds, in numbers.

Shapes: R rows of the table.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.data.split import SPLIT_COLUMN, SPLITS, IntArray
from crystalformers.data.table import CrystalTable
from crystalformers.errors import TableError
from crystalformers.extras import optional
from crystalformers.survey.duplicates import Duplicates, find_duplicates
from crystalformers.training.exclusion import element_counts

SYMMETRY_ROWS = 2000
"""Rows whose space groups are found, drawn at random from larger tables."""

SYMMETRY_TOLERANCE = 0.01
"""Displacement that a symmetry may have, Angstrom (spglib's symprec)."""


@dataclass(frozen=True)
class Facts:
    """The facts of a table.

    Attributes:
        name: of the data set or file.
        rows: usable rows, (R,).
        unusable: rows that cannot be used.
        elements: symbol -> crystals that hold it.
        n_atoms: of each usable row, (R,).
        labels: name -> values of all usable rows, (R,), NaN where there is none; labels without any are left out.
        units: name -> unit; empty where it is not stated.
        part: train, val, test or unused of each usable row, (R,); None if the table has no split.
        space_groups: number of the space group -> rows that have it, among `symmetry_rows`.
        symmetry_rows: rows that were looked at.
        duplicates: rows that are nearly the same crystal.
    """

    name: str
    rows: IntArray
    unusable: int
    elements: Mapping[str, int]
    n_atoms: IntArray
    labels: Mapping[str, NDArray[np.float64]]
    units: Mapping[str, str]
    part: NDArray[np.str_] | None
    space_groups: Mapping[int, int]
    symmetry_rows: int
    duplicates: Duplicates

    @property
    def parts(self) -> dict[str, int]:
        """Usable rows of each part of the split, in the usual order; empty without a split."""
        counts = Counter([] if self.part is None else self.part.tolist())
        return {name: counts[name] for name in (*SPLITS, "unused") if counts[name]}


def facts_of(
    table: CrystalTable, name: str, units: Mapping[str, str], seed: int, progress: Callable[[str], None]
) -> Facts:
    """Look at all rows of a table.

    Args:
        table: the table, with the split to look at.
        name: what to call it.
        units: of its labels, as far as known.
        seed: of the rows whose space groups are found.
        progress: called with the name of each step.

    Raises:
        TableError: if no row can be used.
    """
    progress("rows")
    unusable = table.check_rows()
    rows = np.setdiff1d(np.arange(len(table)), list(unusable))
    if not len(rows):
        raise TableError("no row can be used", where=str(table.path))
    part = None if table.split is None else np.array(table.split)[rows]
    progress("elements and labels")
    elements = element_counts(table, rows)
    labels = _labels(table, rows)
    progress("space groups")
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:SYMMETRY_ROWS])
    groups = Counter(space_group(table[row]) for row in chosen.tolist())
    progress("duplicates")
    duplicates = find_duplicates(table, rows, part)
    return Facts(
        name,
        rows,
        len(unusable),
        elements,
        table.n_atoms[rows],
        labels,
        {label: units.get(label, "") for label in labels},
        part,
        dict(sorted(groups.items())),
        len(chosen),
        duplicates,
    )


def _labels(table: CrystalTable, rows: IntArray) -> dict[str, NDArray[np.float64]]:
    """The columns of numbers that are labels: neither splits nor row numbers nor without a value."""
    found = {}
    for name in table.columns:
        if name.startswith(SPLIT_COLUMN) or name in {"source_row", "matbench_fold"}:
            continue
        try:
            values = table.labels(name)[rows]
        except TableError:  # a column of text
            continue
        if np.isfinite(values).any():
            found[name] = values
    return found


def space_group(crystal: Crystal) -> int:
    """Number of the space group by spglib, 1 to 230; 0 where it finds none."""
    with optional("train", "a space group"):
        import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib's own news about its next version
        cell: Any = (crystal.lattice, crystal.frac_coords, crystal.numbers)  # arrays are read faster than lists
        found = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_TOLERANCE)
    return 0 if found is None else int(found.number)
