"""A whole data set in the memory of one device, and batches gathered from it in one fixed shape.

A training step that waits for nothing and always has the same shapes can be captured in a CUDA graph. So batches are
filled up with one more crystal, made of atoms that see nothing but themselves, whose prediction is to be dropped. All
that the host does is to choose rows.

Shapes: N crystals of the data set, C of a batch; A atoms, P pairs and E images of a filled batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, Images, pointers

IntArray = NDArray[np.int64]

ROUNDING = 256
"""Capacities are multiples of this, so that data sets of about one size share their shapes."""


@dataclass(frozen=True)
class Capacity:
    """Shapes of a filled batch.

    Attributes:
        atoms: A, at least one more than the crystals have.
        pairs: P, with one for each atom that fills up.
        images: E, likewise.
    """

    atoms: int
    pairs: int
    images: int


class ResidentCrystals:
    """Crystals with their images on one device.

    Args:
        batches: the crystals in order, packed with their images (as many at a time as memory allows on the host), all
            with directions or none.
        device: where they are stored.
    """

    def __init__(self, batches: Iterable[CrystalBatch], device: torch.device | str) -> None:
        parts, radii = [], set()
        for batch in batches:
            if batch.images is None:
                raise ConfigError("The crystals to keep on a device need their images; see `images.with_images`.")
            parts.append({name: tensor.to(device) for name, tensor in _local(batch, batch.images).items()})
            radii.add(batch.images.radius)
        if len(radii) != 1:
            raise ConfigError(f"A data set on a device needs crystals with images of one radius, not {radii or None}.")
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        sizes = torch.stack([joined.pop(name) for name in ("atoms", "pairs", "images")])
        self.sizes: IntArray = sizes.cpu().numpy()
        """Atoms, pairs and images of each crystal, (3, N), on the host."""
        self.radius = radii.pop()
        self._first = torch.stack([pointers(counts) for counts in sizes])
        self._data = joined

    def __len__(self) -> int:
        return self.sizes.shape[1]

    def capacity(self, batches: Sequence[IntArray]) -> Capacity:
        """What holds every one of these batches of rows."""
        totals = np.stack([self.sizes[:, rows].sum(1) for rows in batches])
        atoms = _rounded(totals[:, 0].max() + 1)
        return Capacity(atoms, *(_rounded((totals[:, k] - totals[:, 0]).max() + atoms) for k in (1, 2)))

    def check(self, rows: IntArray, capacity: Capacity) -> None:
        """Raise where a batch does not fit; on the host, before anything is sent.

        Raises:
            ConfigError: if it holds too many atoms, pairs or images.
        """
        atoms, pairs, images = (int(total) for total in self.sizes[:, rows].sum(1))
        free = capacity.atoms - atoms
        if free < 1 or pairs + free > capacity.pairs or images + free > capacity.images:
            raise ConfigError(
                f"A batch of {atoms:,} atoms, {pairs:,} pairs and {images:,} images does not fit {capacity}; compute "
                "the capacity from all batches of the epoch."
            )

    def batch(self, rows: Tensor, capacity: Capacity) -> CrystalBatch:
        """The crystals of `rows`, (C,) int64 on the device, and the one that fills up; see `check`.

        The device is never waited for, and all shapes follow from C and the capacity.
        """
        data = self._data
        first = self._first[:, rows]
        atom, pair, image = (
            Slots.of(first[k], self._first[k][rows + 1] - first[k], size)
            for k, size in enumerate((capacity.atoms, capacity.pairs, capacity.images))
        )
        last_atom, last_pair = capacity.atoms - 1, capacity.pairs - 1
        filling = (atom.total + pair.beyond).clamp(max=last_atom)
        pair_target, pair_source = (
            torch.where(pair.real, data[name][pair.index] + atom.start[pair.owner], filling)
            for name in ("pair_target", "pair_source")
        )
        pair_of_image = data["pair"][image.index] + pair.start[image.owner]
        vectors = torch.where(image.real[:, None], data["vectors"][image.index], 0.0) if "vectors" in data else None
        images = Images(
            distance=torch.where(image.real, data["distance"][image.index], 0.0),
            pair=torch.where(image.real, pair_of_image, (pair.total + image.beyond).clamp(max=last_pair)).int(),
            ptr=pointers(torch.where(atom.real, data["per_atom"][atom.index], 1)),
            pair_target=pair_target,
            pair_source=pair_source,
            radius=self.radius,
            vectors=vectors,
        )
        unit = torch.eye(3, device=rows.device, dtype=data["lattice"].dtype)[None]
        return CrystalBatch(
            numbers=torch.where(atom.real, data["numbers"][atom.index], 1),
            positions=torch.where(atom.real[:, None], data["positions"][atom.index], 0.0),
            lattice=torch.cat([data["lattice"][rows], unit]),
            ptr=torch.cat([atom.start, atom.start.new_full((1,), capacity.atoms)]),
            images=images,
        )


@dataclass(frozen=True)
class Slots:
    """Where the entries of a filled batch come from.

    Attributes:
        index: entry of the data set; any, where the slot is not real.
        owner: crystal of the batch, C for one that fills up.
        real: whether a slot belongs to a crystal.
        beyond: how many slots before it are not real either; negative for a real one.
        start: first slot of each crystal, and of what fills up, (C + 1,).
        total: real slots, ().
    """

    index: Tensor
    owner: Tensor
    real: Tensor
    beyond: Tensor
    start: Tensor
    total: Tensor

    @classmethod
    def of(cls, first: Tensor, count: Tensor, size: int) -> Slots:
        """For ranges of the data set that begin at `first` and hold `count` entries, (C,), one after the other."""
        start = pointers(count)
        slot = torch.arange(size, device=first.device)
        owner = torch.searchsorted(start[1:], slot, right=True)
        real = slot < start[-1]
        begin = torch.cat([first - start[:-1], first.new_zeros(1)])
        index = torch.where(real, slot + begin[owner], 0)
        return cls(index, owner, real, slot - start[-1], start, start[-1])


def _local(batch: CrystalBatch, images: Images) -> dict[str, Tensor]:
    """What is stored of a batch: atoms and pairs counted from 0 in every crystal, sizes per crystal."""
    ptr = batch.ptr
    image_ptr = images.ptr[ptr]
    pair_ptr = torch.searchsorted(images.pair_target, ptr)
    crystal_of_pair = batch.crystal_of_atom[images.pair_target]
    return {
        "numbers": batch.numbers,
        "positions": batch.positions.float(),
        "lattice": batch.lattice.float(),
        "per_atom": images.ptr.diff(),
        "distance": images.distance.float(),
        "pair": images.pair - pair_ptr[crystal_of_pair[images.pair]].int(),
        "pair_target": (images.pair_target - ptr[crystal_of_pair]).int(),
        "pair_source": (images.pair_source - ptr[crystal_of_pair]).int(),
        "atoms": ptr.diff(),
        "pairs": pair_ptr.diff(),
        "images": image_ptr.diff(),
        **({} if images.vectors is None else {"vectors": images.vectors.float()}),
    }


def _rounded(number: float) -> int:
    return math.ceil(number / ROUNDING) * ROUNDING
