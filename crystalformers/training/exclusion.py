"""Which rows must not be learned from, because another table tests on them; and which elements are seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np

from crystalformers.data.split import IntArray
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import TableError
from crystalformers.periodic import SYMBOLS
from crystalformers.training.recipe import Exclude

Composition = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Excluded:
    """What one setting of `Recipe.exclude` did.

    Attributes:
        table: name of the table whose rows must not be learned from.
        fingerprint: of its content.
        split: which of its rows, or None for all.
        by: what was compared.
        rows: rows of the training table that are left out for it.
    """

    table: str
    fingerprint: str
    split: str | None
    by: str
    rows: int


def exclude(
    table: CrystalTable, splits: dict[str, IntArray], settings: tuple[Exclude, ...]
) -> tuple[dict[str, IntArray], tuple[Excluded, ...]]:
    """Take what must not be learned from out of the splits that training looks at, `train` and `val`.

    Args:
        table: to learn from.
        splits: rows of it.
        settings: tables and what to compare.

    Raises:
        TableError: if a table cannot be read or has no such split, or nothing is left of a split.
    """
    remaining, report = np.union1d(splits["train"], splits["val"]), []
    for setting in settings:
        other = open_table(Path(setting.table))
        rows = _rows(other, setting)
        if setting.by == "id":
            names = {other.ids[row] for row in rows}
            shared = np.array([table.ids[row] in names for row in remaining], dtype=bool)
        else:
            compositions = {composition(other.numbers(row)) for row in rows}
            shared = np.array([composition(table.numbers(row)) in compositions for row in remaining], dtype=bool)
        report.append(Excluded(other.path.stem, other.fingerprint, setting.split, setting.by, int(shared.sum())))
        remaining = remaining[~shared]
    left = {name: np.intersect1d(splits[name], remaining) for name in ("train", "val")}
    for name, rows_left in left.items():
        if not len(rows_left):
            raise TableError(f"Nothing is left of the {name} split after 'exclude'; give a larger table.")
    return {**splits, **left}, tuple(report)


def _rows(other: CrystalTable, setting: Exclude) -> list[int]:
    rows = [row for row, n_atoms in enumerate(other.n_atoms.tolist()) if n_atoms]
    if setting.split is None:
        return rows
    if other.split is None:
        raise TableError(
            f"{other.path}: there is no column 'split' to find the {setting.split} rows that exclude asks for; "
            "add it, or exclude all rows with split: null."
        )
    return [row for row in rows if other.split[row] == setting.split]


def composition(numbers: IntArray) -> Composition:
    """Elements and their counts in the reduced formula, by atomic number."""
    counts = Counter(numbers.tolist())
    divisor = gcd(*counts.values())
    return tuple((z, counts[z] // divisor) for z in sorted(counts))


def element_counts(table: CrystalTable, rows: IntArray) -> dict[str, int]:
    """How many of the rows hold each element, by symbol; an element that no row holds is not there."""
    counts = Counter(z for row in rows.tolist() for z in set(table.numbers(row).tolist()))
    return {SYMBOLS[z - 1]: counts[z] for z in sorted(counts)}
