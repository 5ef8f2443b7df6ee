"""Batches: which crystals make one, in what order, and their images, built once and kept within a budget.

The order depends on (seed, epoch) alone, so a resumed run continues exactly where it stopped. Crystals are
dealt to batches like cards sorted by cost: every batch gets its share of small and of giant cells, so that
all steps take the same time and memory while each batch stays a random sample.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, Images, with_images

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable

IntArray = NDArray[np.int64]

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
    """The batches of one epoch; the rows that do not fill a batch sit out, others each epoch.

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
class CompactImages:
    """Images of one crystal in the fewest bytes; atoms and pairs are counted from 0.

    Attributes:
        distance: (E,) float32, Angstrom.
        pair: pair of each image, (E,), smallest integer type that holds it, as the two below.
        per_atom: images of each atom, (N,).
        pair_target: atom i of each pair, (P,).
        pair_source: atom j of each pair, (P,).
        vectors: (E, 3) float32, Angstrom, where a model needs directions.
    """

    distance: NDArray[np.float32]
    pair: NDArray[Any]
    per_atom: NDArray[Any]
    pair_target: NDArray[Any]
    pair_source: NDArray[Any]
    vectors: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)


def split_images(batch: CrystalBatch) -> list[CompactImages]:
    """The images of each crystal of a batch, which `pack_images` puts together again."""
    images = batch.images
    assert images is not None
    atom = batch.ptr.numpy()
    image = images.ptr.numpy()[atom]
    pair = np.searchsorted(images.pair_target.numpy(), atom)
    distance, per_atom = images.distance.float().numpy(), images.ptr.diff().numpy()
    vectors = None if images.vectors is None else images.vectors.float().numpy()
    return [
        CompactImages(
            distance=distance[image[k] : image[k + 1]].copy(),
            pair=_smallest(images.pair.numpy()[image[k] : image[k + 1]] - pair[k]),
            per_atom=_smallest(per_atom[atom[k] : atom[k + 1]]),
            pair_target=_smallest(images.pair_target.numpy()[pair[k] : pair[k + 1]] - atom[k]),
            pair_source=_smallest(images.pair_source.numpy()[pair[k] : pair[k + 1]] - atom[k]),
            vectors=None if vectors is None else vectors[image[k] : image[k + 1]].copy(),
        )
        for k in range(len(batch))
    ]


def pack_images(parts: Sequence[CompactImages], radius: float) -> Images:
    """Images of the batch whose crystals these are, in order."""
    atoms = [len(part.per_atom) for part in parts]
    pairs = [len(part.pair_target) for part in parts]
    first_atom, first_pair = (np.cumsum([0, *counts])[:-1] for counts in (atoms, pairs))
    images = [len(part.pair) for part in parts]
    pair = np.concatenate([part.pair for part in parts], dtype=np.int32)
    pair += np.repeat(first_pair.astype(np.int32), images)
    atom_of_pair = np.repeat(first_atom, pairs)
    per_atom = np.concatenate([[0], *(part.per_atom for part in parts)], dtype=np.int64)
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Images(
        distance=torch.from_numpy(np.concatenate([part.distance for part in parts])),
        pair=torch.from_numpy(pair),
        ptr=torch.from_numpy(per_atom.cumsum()),
        pair_target=torch.from_numpy(np.concatenate([p.pair_target for p in parts], dtype=np.int64) + atom_of_pair),
        pair_source=torch.from_numpy(np.concatenate([p.pair_source for p in parts], dtype=np.int64) + atom_of_pair),
        radius=radius,
        vectors=torch.from_numpy(np.concatenate(vectors)) if vectors else None,
    )


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.int16 if array.max() <= np.iinfo(np.int16).max else np.int32)


class ImageStore:
    """Crystals of a table packed into batches with images; images are kept in memory while they fit.

    Kept images and rebuilt ones are the same bits, so the budget never changes a result.

    Args:
        table: where the crystals come from.
        radius: of the images, Angstrom.
        budget: bytes the kept images may take.
        directions: whether to keep the vectors to the images too.
    """

    def __init__(self, table: CrystalTable, radius: float, budget: float, *, directions: bool = False) -> None:
        self.table = table
        self.radius = radius
        self.budget = budget
        self.directions = directions
        self.used = 0
        self._cache: dict[int, tuple[Crystal, CompactImages]] = {}

    def batch(self, rows: IntArray) -> CrystalBatch:
        """The crystals of `rows` with their images, lengths in float32.

        Raises:
            StructureError: if the table cannot give one of the crystals.
        """
        entries = {row: self._cache[row] for row in rows.tolist() if row in self._cache}
        entries |= self._build([row for row in rows.tolist() if row not in entries])
        crystals, parts = zip(*(entries[row] for row in rows.tolist()), strict=True)
        images = pack_images(parts, self.radius)
        return replace(CrystalBatch.from_crystals(crystals, torch.float32), images=images)

    def _build(self, rows: list[int]) -> dict[int, tuple[Crystal, CompactImages]]:
        if not rows:
            return {}
        crystals = [self.table[row] for row in rows]
        # From float64 coordinates: in float32 an atom far from the origin would be misplaced.
        parts = split_images(with_images(CrystalBatch.from_crystals(crystals), self.radius, directions=self.directions))
        built = dict(zip(rows, zip(crystals, parts, strict=True), strict=True))
        for row, (crystal, images) in built.items():
            size = images.nbytes + crystal.numbers.nbytes + crystal.frac_coords.nbytes
            if self.used + size <= self.budget:
                self._cache[row] = crystal, images
                self.used += size
        return built


class LabelledBatch:
    """Crystals with images and their standardised labels.

    Attributes:
        rows: rows of the table, (C,).
        crystals: the batch.
        labels: (C, targets) float32, NaN where missing.
    """

    def __init__(self, rows: IntArray, crystals: CrystalBatch, labels: Tensor) -> None:
        self.rows = rows
        self.crystals = crystals
        self.labels = labels

    def to(self, device: torch.device | str) -> LabelledBatch:
        """Move to a device."""
        return LabelledBatch(self.rows, self.crystals.to(device), self.labels.to(device))


class Loader:
    """Iterates over given batches; one background thread builds them ahead.

    A thread rather than worker processes: nothing is forked or pickled, the images stay shared, and the order
    cannot depend on who finishes first.

    Args:
        store: builds the batches.
        labels: standardised labels of all rows of the table, (rows, targets).
        batches: rows of each batch, in order.
        change: what happens to the crystals of a batch, if anything.
    """

    def __init__(
        self, store: ImageStore, labels: Tensor, batches: list[IntArray], change: Change | None = None
    ) -> None:
        self.store = store
        self.labels = labels
        self.batches = batches
        self.change = change

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[LabelledBatch]:
        executor = ThreadPoolExecutor(1, thread_name_prefix="crystalformers-batches")
        waiting: deque[Future[LabelledBatch]] = deque()
        upcoming = iter(self.batches)
        try:
            waiting.extend(executor.submit(self._build, rows) for rows in islice(upcoming, PREFETCH))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(executor.submit(self._build, rows) for rows in islice(upcoming, 1))
                yield batch
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _build(self, rows: IntArray) -> LabelledBatch:
        crystals = self.store.batch(rows)
        if self.change is not None:
            crystals = self.change(crystals, rows)
        return LabelledBatch(rows, crystals, self.labels[torch.from_numpy(rows)])
