"""What a run trains on: usable rows of a table, their split, their labels, and the scale of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalformers.data.split import IntArray, split_rows
from crystalformers.data.table import CrystalTable
from crystalformers.errors import TargetError
from crystalformers.io import Rejected
from crystalformers.target import Target
from crystalformers.training.exclusion import Excluded, element_counts, exclude
from crystalformers.training.recipe import Recipe

Splits = dict[str, IntArray]
"""Rows of ``train``, ``val`` and ``test``."""


@dataclass(frozen=True)
class Dataset:
    """A table made ready for training.

    Attributes:
        table: the crystals.
        targets: with mean and std of the training split.
        splits: usable rows of ``train``, ``val`` and ``test``; ``test`` may be empty.
        values: labels in physical units, (rows, targets), NaN where missing.
        left_out: rows whose structure cannot be used, and why.
        unlabelled: how many other rows carry none of the labels.
        excluded: what `Recipe.exclude` took out of the training and validation splits.
    """

    table: CrystalTable
    targets: tuple[Target, ...]
    splits: Splits
    values: NDArray[np.float64]
    left_out: tuple[Rejected, ...]
    unlabelled: int
    excluded: tuple[Excluded, ...] = ()

    @classmethod
    def of(
        cls, table: CrystalTable, targets: Sequence[Target], recipe: Recipe, splits: Splits | None = None
    ) -> Dataset:
        """Check every row, split, and learn the scale of the targets from the training split alone.

        Args:
            table: crystals with labels.
            targets: what is learned.
            recipe: says how to split, and what to exclude.
            splits: usable rows of each split; default: those that the table names, or drawn at random.

        Raises:
            TableError: if a column or a split is missing or empty.
            TargetError: if a target cannot be learned.
        """
        values = np.stack([table.labels(target.name) for target in targets], axis=1)
        rejected = table.check_rows()
        good = np.setdiff1d(np.arange(len(table)), list(rejected))
        usable = good[~np.isnan(values[good]).all(axis=1)]
        if splits is None:
            splits = split_rows(usable, table.split, recipe.val_fraction, recipe.test_fraction, recipe.seed_of_split)
        splits, excluded = exclude(table, splits, recipe.exclude)
        for k, target in enumerate(targets):
            infinite = usable[np.isinf(values[usable, k])]
            if len(infinite):
                raise TargetError(
                    f"{target.name}: the label of {table.ids[infinite[0]]} is infinite; correct it or leave it empty."
                )
        train = splits["train"]
        fitted = [t.fitted(values[train, k], table.n_atoms[train]) for k, t in enumerate(targets)]
        left_out, unlabelled = tuple(rejected.values()), len(good) - len(usable)
        return cls(table, tuple(fitted), splits, values, left_out, unlabelled, excluded)

    def n_atoms(self, split: str) -> IntArray:
        """Atoms per cell of the rows of a split."""
        counts: IntArray = self.table.n_atoms[self.splits[split]]
        return counts

    @property
    def element_counts(self) -> dict[str, int]:
        """Training crystals that hold each element, by symbol; an element that is not here was never seen."""
        return element_counts(self.table, self.splits["train"])

    @property
    def ids(self) -> dict[str, list[str]]:
        """Ids of the rows of each split."""
        return {name: [self.table.ids[row] for row in rows] for name, rows in self.splits.items()}
