"""Crystals of a table packed with their images, which are built once and cached as far as memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.data.split import IntArray
from crystalformers.data.table import CrystalTable
from crystalformers.images import CrystalBatch, Images, with_images

Integers = NDArray[np.integer[Any]]


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
    pair: Integers
    per_atom: Integers
    pair_target: Integers
    pair_source: Integers
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


def _smallest(array: Integers) -> Integers:
    return array.astype(np.int16 if array.max() <= np.iinfo(np.int16).max else np.int32)


class ImageStore:
    """Packs rows of a table with their images and caches them until the budget is used up.

    Cached images and rebuilt ones are the same bits, so the budget never changes a result.

    Args:
        table: where the crystals come from.
        radius: of the images, Angstrom.
        budget: bytes that the cache may take.
        directions: whether the vectors to the images are needed too.
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
