"""Crystals packed along one axis, and the periodic images around each of their atoms.

Shapes: A atoms of a batch, C crystals, E images (the edges of the sum), P pairs of atoms that share at least
one image. Lengths in Angstrom.

The set "images within `radius` of atom i" depends on the crystal alone, never on how its cell was drawn.
From this follow invariance to supercells, choice of cell, unwrapped atoms and atom order, and a list whose length is
linear in the number of atoms, as is the time to find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, StructureError

ENVELOPE_WIDTH = 0.3
"""Width of the shell below `radius` over which the weight of an image falls smoothly to zero (Angstrom)."""


ONE_SPOT = 1e-6
"""Distance up to which two atoms are on one spot: it counts as 0, and its direction, which is rounding, as none (Å)."""


@dataclass(frozen=True)
class CrystalBatch:
    """Crystals packed along one axis, no padding.

    Attributes:
        numbers: atomic numbers, (A,) int64.
        positions: Cartesian positions, (A, 3), Angstrom.
        lattice: lattice vectors as rows, (C, 3, 3), Angstrom.
        ptr: first atom of each crystal and the total, (C + 1,) int64.
        images: the periodic images around each atom, once they are built (`with_images`).
        unrounded: positions and lattice in float64, where `to` or `from_crystals` has rounded them; see `in_float64`.
    """

    numbers: Tensor
    positions: Tensor
    lattice: Tensor
    ptr: Tensor
    images: Images | None = None
    unrounded: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_crystals(cls, crystals: Sequence[Crystal], dtype: torch.dtype = torch.float64) -> CrystalBatch:
        """Pack crystals; coordinates stay as they are given (not wrapped)."""
        if not crystals:
            raise StructureError("A batch needs at least one crystal.")
        sizes = np.array([len(crystal) for crystal in crystals])
        return cls(
            numbers=torch.from_numpy(np.concatenate([crystal.numbers for crystal in crystals])),
            positions=torch.from_numpy(np.concatenate([crystal.positions for crystal in crystals])),
            lattice=torch.from_numpy(np.concatenate([crystal.lattice for crystal in crystals]).reshape(-1, 3, 3)),
            ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        ).to(dtype)

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def n_atoms(self) -> int:
        """Atoms of the whole batch."""
        return self.numbers.shape[0]

    @cached_property
    def crystal_of_atom(self) -> Tensor:
        """Index of the crystal each atom belongs to, (A,) int64."""
        return torch.repeat_interleave(
            torch.arange(self.lattice.shape[0], device=self.ptr.device), self.ptr.diff(), output_size=self.n_atoms
        )

    def to(self, target: torch.device | torch.dtype | str) -> CrystalBatch:
        """Move to a device, or convert every length to a floating-point type."""
        images = None if self.images is None else self.images.to(target)
        if isinstance(target, torch.dtype):
            exact = self.in_float64()
            positions, lattice = exact.positions.to(target), exact.lattice.to(target)
            unrounded = exact.positions.detach(), exact.lattice.detach()
            return replace(self, positions=positions, lattice=lattice, images=images, unrounded=unrounded)
        return replace(
            self,
            numbers=self.numbers.to(target),
            positions=self.positions.to(target),
            lattice=self.lattice.to(target),
            ptr=self.ptr.to(target),
            images=images,
        )

    def in_float64(self) -> CrystalBatch:
        """The crystals without images, lengths in float64 as they were before they were rounded to another type.

        What depends on differences of positions must use it: far from the origin, rounding takes the decimals that
        count. Coordinates that were replaced since are taken as they are. Gradients reach `positions` and `lattice`.
        """
        positions, lattice = self.unrounded or (None, None)
        return CrystalBatch(
            self.numbers, _unrounded(self.positions, positions), _unrounded(self.lattice, lattice), self.ptr
        )


@dataclass(frozen=True)
class Images:
    """All images (j, n) within `radius` of each atom i, the atom itself included, sorted by distance.

    Attributes:
        distance: |p_j + n L - p_i|, (E,), Angstrom. Grouped by target atom, ascending within the group.
        pair: which pair (i, j) an image belongs to, (E,) int32.
        ptr: first image of each atom and the total, (A + 1,) int64.
        pair_target: atom i of each pair, (P,) int64, ascending.
        pair_source: atom j of each pair, (P,) int64.
        radius: Angstrom.
        shift: n, the lattice translation of each image relative to the given coordinates, (E, 3) int32; None
            unless a model needs directions or gradients with respect to positions.
        vectors: p_j + n L - p_i, (E, 3), Angstrom; None where `shift` is.
    """

    distance: Tensor
    pair: Tensor
    ptr: Tensor
    pair_target: Tensor
    pair_source: Tensor
    radius: float
    shift: Tensor | None = None
    vectors: Tensor | None = None

    @property
    def n_atoms(self) -> int:
        """Number of target atoms A."""
        return self.ptr.shape[0] - 1

    @cached_property
    def target(self) -> Tensor:
        """Atom i of each image, (E,)."""
        return self.pair_target[self.pair]

    @cached_property
    def source(self) -> Tensor:
        """Atom j of each image, (E,)."""
        return self.pair_source[self.pair]

    @cached_property
    def envelope(self) -> Tensor:
        """Factor on the weight of each image, (E,); see `envelope`."""
        return envelope(self.distance, self.radius)

    def to(self, target: torch.device | torch.dtype | str) -> Images:
        """Move to a device, or convert the lengths to a floating-point type."""
        if self.distance.dtype == target and (self.vectors is None or self.vectors.dtype == target):
            return self
        vectors = None if self.vectors is None else self.vectors.to(target)
        images = replace(self, distance=self.distance.to(target), vectors=vectors)
        if isinstance(target, torch.dtype):
            return images
        return replace(
            images,
            pair=self.pair.to(target),
            ptr=self.ptr.to(target),
            pair_target=self.pair_target.to(target),
            pair_source=self.pair_source.to(target),
            shift=None if self.shift is None else self.shift.to(target),
        )

    def moved(self, batch: CrystalBatch) -> Images:
        """The same images with vectors and distances computed from a batch's positions and lattice, differentiably."""
        if self.shift is None:
            raise ConfigError("these images were built without directions", remedy="build them with `directions=True`")
        exact = batch.in_float64()
        lattice = exact.lattice[batch.crystal_of_atom[self.target]]
        translation = torch.einsum("ek,ekx->ex", self.shift.to(lattice.dtype), lattice)
        vectors = exact.positions[self.source] + translation - exact.positions[self.target]
        vectors = without_noise(vectors)
        return replace(self, vectors=vectors, distance=length(vectors)).to(batch.positions.dtype)


def _unrounded(rounded: Tensor, exact: Tensor | None) -> Tensor:
    """Numbers in float64: the exact ones where they were rounded to these, the others as they are."""
    if rounded.dtype == torch.float64 or exact is None or exact.shape != rounded.shape:
        return rounded.double()
    exact = exact.to(rounded.device)
    lost = exact - rounded.detach().double()
    return rounded.double() + torch.where(exact.to(rounded.dtype) == rounded, lost, 0.0)


def without_noise(vectors: Tensor) -> Tensor:
    """Vectors of any shape (..., 3), those of atoms on one spot exactly zero."""
    return torch.where(length(vectors.detach()).unsqueeze(-1) > ONE_SPOT, vectors, 0.0)


def length(vectors: Tensor) -> Tensor:
    """Euclidean length over the last axis, with gradient zero at the origin (an atom and itself)."""
    squared = vectors.square().sum(-1)
    origin = squared == 0
    return torch.where(origin, 0.0, torch.where(origin, 1.0, squared).sqrt())


def envelope(distance: Tensor, radius: float | Tensor, width: float = ENVELOPE_WIDTH) -> Tensor:
    """Cutoff envelope: from 1 at `radius - width` smoothly to 0 at `radius`; any shape, Angstrom."""
    return smooth_step((radius - distance).div_(width))


def smooth_step(x: Tensor) -> Tensor:
    """x^3 (10 - 15 x + 6 x^2) between 0 and 1, 0 below and 1 above; twice differentiable, any shape."""
    x = x.clamp(0, 1)
    # In place: envelopes are as long as lists of images, and fresh memory costs more than arithmetic.
    return (6 * x).sub_(15).mul_(x).add_(10).mul_(x**3)
