"""Batches of a data set: which rows make one, in what order, and how they are built while the model is at work.

The order depends on (seed, epoch) alone, so a resumed run continues exactly where it stopped. Crystals are sorted
by size and dealt to the batches like cards: every batch gets its share of small and of large cells, so that all steps
take the same time and memory while each batch stays a random sample.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from crystalformers.data.split import IntArray
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch
from crystalformers.training import augmentation, published_slips
from crystalformers.training.dataset import Dataset
from crystalformers.training.image_store import ImageStore
from crystalformers.training.processes import n_processes
from crystalformers.training.recipe import Recipe

Change = Callable[[CrystalBatch, IntArray], CrystalBatch]
"""What happens to the crystals of a batch, given their rows of the table, before a model sees them."""

PREFETCH = 4
"""Batches built ahead of the one in use."""


def n_batches(n_atoms: IntArray, batch_size: int, max_atoms: int | None, drop_last: bool) -> int:
    """How many batches an epoch has; more than the sizes ask for where `max_atoms` per batch would be exceeded."""
    count = len(n_atoms) // batch_size if drop_last else math.ceil(len(n_atoms) / batch_size)
    if max_atoms is not None:
        count = max(count, math.ceil(int(n_atoms.sum()) / max_atoms))
    return min(max(count, 1), len(n_atoms))


def training_order(
    rows: IntArray, n_atoms: IntArray, batch_size: int, max_atoms: int | None, seed: int, epoch: int
) -> list[IntArray]:
    """The batches of one epoch; rows that do not fill a batch are left out, different ones in each epoch.

    Args:
        rows: rows of the table to train on.
        n_atoms: atoms of each of them, same length: the cost of a crystal.
        batch_size: crystals per batch.
        max_atoms: atoms per batch above which batches become smaller, or None.
        seed: of the run.
        epoch: counted from 0.
    """
    rng = np.random.default_rng([seed, epoch])
    count = n_batches(n_atoms, batch_size, max_atoms, drop_last=True)
    size = min(batch_size, len(rows) // count)
    chosen = rng.permutation(len(rows))[: count * size]
    by_cost = chosen[np.argsort(n_atoms[chosen], kind="stable")].reshape(size, count)
    dealt = rng.permuted(by_cost, axis=1).T
    return [rows[batch] for batch in dealt]


def evaluation_order(rows: IntArray, n_atoms: IntArray, batch_size: int, max_atoms: int | None) -> list[IntArray]:
    """All rows once, dealt to batches of equal cost."""
    count = n_batches(n_atoms, batch_size, max_atoms, drop_last=False)
    by_cost = rows[np.argsort(n_atoms, kind="stable")]
    return [by_cost[k::count] for k in range(count)]


@dataclass(frozen=True)
class LabelledBatch:
    """Crystals with images and their standardised labels.

    Attributes:
        rows: rows of the table, (C,).
        crystals: the batch.
        labels: (C, targets) float32, NaN where missing.
        counts: labels of each target in the whole batch, of which this may be the share of one process, (targets,).
        size: crystals of the whole batch.
    """

    rows: IntArray
    crystals: CrystalBatch
    labels: Tensor
    counts: Tensor
    size: int

    def to(self, device: torch.device) -> LabelledBatch:
        """Move to a device."""
        labels, counts = self.labels.to(device), self.counts.to(device)
        return replace(self, crystals=self.crystals.to(device), labels=labels, counts=counts)


def load(
    store: ImageStore,
    labels: Tensor,
    batches: Iterable[IntArray],
    change: Change | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[LabelledBatch]:
    """Iterate over given batches, or over the shares of them that one process has; one thread builds them ahead.

    A thread rather than worker processes: nothing is forked or pickled, the images stay shared, and the order
    cannot depend on who finishes first.

    Args:
        store: builds the batches.
        labels: standardised labels of all rows of the table, (rows, targets).
        batches: rows of each batch, in order.
        change: what happens to the crystals of a batch, if anything.
        share: number of the process, counted from 0, and how many share each batch.
    """

    def build(whole: IntArray) -> LabelledBatch:
        rows = whole[share[0] :: share[1]]
        crystals = store.batch(rows)
        if change is not None:
            crystals = change(crystals, rows)
        counts = (~labels[torch.from_numpy(whole)].isnan()).sum(0)
        return LabelledBatch(rows, crystals, labels[torch.from_numpy(rows)], counts, len(whole))

    executor = ThreadPoolExecutor(1, thread_name_prefix="crystalformers-batches")
    waiting: deque[Future[LabelledBatch]] = deque()
    upcoming = iter(batches)
    try:
        waiting.extend(executor.submit(build, rows) for rows in islice(upcoming, PREFETCH))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(executor.submit(build, rows) for rows in islice(upcoming, 1))
            yield batch
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class Batches:
    """The batches of a data set, for training and for evaluation; all share one store of images.

    Args:
        dataset: what to load.
        radius: of the images, Angstrom.
        recipe: batch size, seed, random poses and memory for images.
        directions: whether the model needs the vectors to the images too.

    Raises:
        ConfigError: if a batch holds fewer crystals than there are devices to share it.
    """

    def __init__(self, dataset: Dataset, radius: float, recipe: Recipe, *, directions: bool = False) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.store = ImageStore(dataset.table, radius, recipe.image_cache_gb * 1e9, directions=directions)
        # Rows that cannot be read have no atoms and are never asked for.
        n_atoms = np.maximum(dataset.table.n_atoms, 1)
        labels = [t.standardise(dataset.values[:, k], n_atoms) for k, t in enumerate(dataset.targets)]
        self.labels = torch.from_numpy(np.stack(labels, axis=1)).float()
        smallest = min(len(rows) for rows in [*self.train_order(0), *self.evaluation_order("val")])
        if smallest < (processes := n_processes(recipe)):
            raise ConfigError(
                f"the smallest batch, of size {smallest}, cannot be shared among them",
                where=f"devices = {processes}",
                remedy="use fewer",
            )

    @property
    def per_epoch(self) -> int:
        """Training batches in an epoch, the same in all of them."""
        return n_batches(self.dataset.n_atoms("train"), self.recipe.batch_size, self.recipe.max_atoms, True)

    def train_order(self, epoch: int) -> list[IntArray]:
        """Rows of every batch of an epoch (from 0)."""
        rows, n_atoms, recipe = self.dataset.splits["train"], self.dataset.n_atoms("train"), self.recipe
        if recipe.published_slips:
            size = min(recipe.batch_size, len(rows) // self.per_epoch)
            return published_slips.shuffled_order(rows, self.per_epoch, size, recipe.seed, epoch)
        return training_order(rows, n_atoms, recipe.batch_size, recipe.max_atoms, recipe.seed, epoch)

    def evaluation_order(self, split: str) -> list[IntArray]:
        """Rows of every batch of a split in evaluation."""
        rows, n_atoms = self.dataset.splits[split], self.dataset.n_atoms(split)
        return evaluation_order(rows, n_atoms, self.recipe.batch_size, self.recipe.max_atoms)

    def train(self, epoch: int, start: int, rank: int = 0, world: int = 1) -> Iterator[LabelledBatch]:
        """Batches of an epoch from number `start` on; of each, the share of one of `world` processes."""
        order = self.train_order(epoch)[start:]
        return load(self.store, self.labels, order, self._poses(epoch), (rank, world))

    def evaluation(self, split: str, rank: int = 0, world: int = 1) -> Iterator[LabelledBatch]:
        """All rows of a split once; of each batch, the share of one of `world` processes."""
        order = self.evaluation_order(split)
        return load(self.store, self.labels, order, self._poses(None), (rank, world))

    def _poses(self, epoch: int | None) -> Change | None:
        """What puts the crystals of a batch into random poses, if anything; the epoch is None in evaluation."""
        augment, seed = self.recipe.augment, self.recipe.seed
        if augment is None:
            slips = self.recipe.published_slips
            return partial(published_slips.with_ties_drawn, seed=seed, epoch=epoch) if slips else None
        if self.recipe.published_slips:
            return partial(published_slips.posed, augment=augment, seed=seed, epoch=epoch)
        return None if epoch is None else partial(augmentation.posed, augment=augment, seed=seed, epoch=epoch)
