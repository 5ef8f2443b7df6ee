"""What a run trains on: usable rows, their split, standardised labels, and the batches of each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.data.split import split_rows
from crystalformers.errors import ConfigError, TableError, TargetError
from crystalformers.io import Rejected
from crystalformers.target import Target
from crystalformers.training.augmentation import posed
from crystalformers.training.batching import (
    Change,
    ImageStore,
    IntArray,
    Loader,
    evaluation_order,
    n_batches,
    training_order,
)
from crystalformers.training.exclusion import Excluded, element_counts, exclude
from crystalformers.training.recipe import Recipe

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable


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
    splits: dict[str, IntArray]
    values: NDArray[np.float64]
    left_out: tuple[Rejected, ...]
    unlabelled: int
    excluded: tuple[Excluded, ...] = ()

    @classmethod
    def of(cls, table: CrystalTable, targets: Sequence[Target], recipe: Recipe) -> Dataset:
        """Check every row, split, and learn the scale of the targets from the training split alone.

        Raises:
            TableError: if a column or a split is missing or empty.
            TargetError: if a target cannot be learned.
        """
        values = np.stack([table.labels(target.name) for target in targets], axis=1)
        rejected = table.check_rows()
        good = np.setdiff1d(np.arange(len(table)), list(rejected))
        usable = good[~np.isnan(values[good]).all(axis=1)]
        splits = split_rows(table, usable, recipe.val_fraction, recipe.test_fraction, recipe.seed)
        splits, excluded = _without_excluded(table, splits, recipe)
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


def _without_excluded(
    table: CrystalTable, splits: dict[str, IntArray], recipe: Recipe
) -> tuple[dict[str, IntArray], tuple[Excluded, ...]]:
    """Take what must not be learned from out of the splits that training looks at."""
    seen = np.union1d(splits["train"], splits["val"])
    kept, excluded = exclude(table, seen, recipe.exclude)
    remaining = {name: np.intersect1d(splits[name], kept) for name in ("train", "val")}
    for name, rows in remaining.items():
        if not len(rows):
            raise TableError(f"Nothing is left of the {name} split after 'exclude'; give a larger table.")
    return {**splits, **remaining}, tuple(excluded)


class Batches:
    """Loaders over the splits of a dataset, sharing one store of images.

    Args:
        dataset: what to load.
        radius: of the images, Angstrom.
        recipe: batch size, seed and memory for images.
        directions: whether the model needs the vectors to the images too.
    """

    def __init__(self, dataset: Dataset, radius: float, recipe: Recipe, *, directions: bool = False) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.store = ImageStore(dataset.table, radius, recipe.image_cache_gb * 1e9, directions=directions)
        # Rows that cannot be read have no atoms and are never asked for.
        n_atoms = np.maximum(dataset.table.n_atoms, 1)
        labels = [t.standardise(dataset.values[:, k], n_atoms) for k, t in enumerate(dataset.targets)]
        self.labels = torch.from_numpy(np.stack(labels, axis=1)).float()
        smallest = min(len(rows) for rows in [*self.train_order(0), *self._evaluation_order("val")])
        if smallest < recipe.devices:
            raise ConfigError(
                f"devices = {recipe.devices}: a batch of {smallest} crystals cannot be shared among them; use fewer."
            )

    @property
    def per_epoch(self) -> int:
        """Training batches in an epoch, the same in all of them."""
        return n_batches(self.dataset.n_atoms("train"), self.recipe.batch_size, self.recipe.max_atoms, True)

    def train_order(self, epoch: int) -> list[IntArray]:
        """Rows of every batch of an epoch (from 0)."""
        rows, n_atoms, recipe = self.dataset.splits["train"], self.dataset.n_atoms("train"), self.recipe
        return training_order(rows, n_atoms, recipe.batch_size, recipe.max_atoms, recipe.seed, epoch)

    def train(self, epoch: int, start: int, rank: int = 0, world: int = 1) -> Loader:
        """Batches of an epoch from number `start` on; of each, the share of one of `world` processes."""
        order = self.train_order(epoch)[start:]
        return Loader(self.store, self.labels, [rows[rank::world] for rows in order], self._poses(epoch))

    def evaluation(self, split: str, rank: int = 0, world: int = 1) -> Loader:
        """All rows of a split once."""
        order = self._evaluation_order(split)
        return Loader(self.store, self.labels, [rows[rank::world] for rows in order], self._poses(None))

    def _poses(self, epoch: int | None) -> Change | None:
        """What puts the crystals of a batch into random poses, if the recipe asks for it."""
        augment, seed = self.recipe.augment, self.recipe.seed
        if augment is None or (epoch is None and not augment.faithful_bugs):
            return None
        return lambda crystals, rows: posed(crystals, rows, augment, seed, epoch)

    def _evaluation_order(self, split: str) -> list[IntArray]:
        rows, n_atoms = self.dataset.splits[split], self.dataset.n_atoms(split)
        return evaluation_order(rows, n_atoms, self.recipe.batch_size, self.recipe.max_atoms)
