"""The periodic images around each atom: the one data structure that every attention backend reads.

Shapes: A atoms of a batch, C crystals, E images (the edges of the sum), P pairs of atoms that share at least
one image. Lengths in Angstrom.

The set "images within `radius` of atom i" depends on the crystal alone, never on how its cell was drawn.
From that follows invariance to supercells, choice of cell, unwrapped atoms and atom order, and a list whose length,
and the time to find it, are linear in the number of atoms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from crystalformers.crystal import CrystalBatch
from crystalformers.enumeration import Cells, enumerate_compiled, enumerate_torch
from crystalformers.errors import ConfigError
from crystalformers.kernels import library

TAPER_WIDTH = 0.3
"""Width of the shell below `radius` over which the weight of an image falls smoothly to zero (Angstrom)."""

REFERENCE_DENSITY = 0.1
"""Number density for which a tolerance is translated into a radius (atoms/Å³); most crystals are thinner."""


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
        shift: n, the lattice translation of each image relative to the given coordinates, (E, 3) int32; kept
            only where a model needs directions or gradients with respect to positions.
        vectors: p_j + n L - p_i, (E, 3), Angstrom; kept with `shift`.
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
    def taper(self) -> Tensor:
        """Factor on the weight of each image, (E,): 1 inside, falling to 0 at `radius`, twice differentiable."""
        return taper(self.distance, self.radius)

    def to(self, target: torch.device | torch.dtype | str) -> Images:
        """Move to a device, or convert the lengths to a floating-point type."""
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
            raise ValueError("These images were built without directions; build them with `directions=True`.")
        lattice = batch.lattice[batch.crystal_of_atom[self.target]]
        translation = torch.einsum("ek,ekx->ex", self.shift.to(lattice.dtype), lattice)
        vectors = batch.positions[self.source] + translation - batch.positions[self.target]
        return replace(self, vectors=vectors, distance=length(vectors))


def length(vectors: Tensor) -> Tensor:
    """Euclidean length over the last axis, with gradient zero at the origin (an atom and itself)."""
    squared = vectors.square().sum(-1)
    origin = squared == 0
    return torch.where(origin, 0.0, torch.where(origin, 1.0, squared).sqrt())


def taper(distance: Tensor, radius: float | Tensor) -> Tensor:
    """Quintic step from 1 at `radius - TAPER_WIDTH` to 0 at `radius`; any shape, Angstrom."""
    # In place: there are as many numbers as images, and fresh memory costs more than arithmetic.
    t = (radius - distance).div_(TAPER_WIDTH).clamp_(0, 1)
    return (6 * t).sub_(15).mul_(t).add_(10).mul_(t**3)


def tail(radius: float, sigma: float, density: float = REFERENCE_DENSITY) -> float:
    """Gaussian mass beyond `radius` around an atom, relative to the atom's own weight of 1.

    tail = 4 pi rho [ sigma^2 R exp(-R^2 / 2 sigma^2) + sigma^3 sqrt(pi/2) erfc(R / (sigma sqrt 2)) ],
    the integral of exp(-d^2 / 2 sigma^2) over a continuum of `density` atoms/Å³. Lengths in Angstrom.
    """
    gauss = sigma**2 * radius * math.exp(-(radius**2) / (2 * sigma**2))
    error = sigma**3 * math.sqrt(math.pi / 2) * math.erfc(radius / (sigma * math.sqrt(2)))
    return 4 * math.pi * density * (gauss + error)


def radius_for(tolerance: float, sigma: float) -> float:
    """Radius (Angstrom) beyond which the Gaussians of width `sigma` hold at most `tolerance` of an atom's weight.

    The taper begins inside, at `radius - TAPER_WIDTH`, so the tail is counted from there.
    """
    low, high = 0.0, 60 * sigma
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, sigma) > tolerance else (low, middle)
    return high + TAPER_WIDTH


def tolerance_of(radius: float, sigma: float) -> float:
    """The tolerance that a radius (Angstrom) stands for: the inverse of `radius_for`."""
    return tail(max(radius - TAPER_WIDTH, 0.0), sigma)


def with_images(batch: CrystalBatch, radius: float, *, directions: bool = False) -> CrystalBatch:
    """The batch with its images within `radius` (Angstrom); see `build_images`."""
    return replace(batch, images=build_images(batch, radius, directions=directions))


def build_images(batch: CrystalBatch, radius: float, *, directions: bool = False) -> Images:
    """Enumerate every image within `radius` of every atom, exactly, for any cell.

    With L = T Q (T lower triangular, Q orthogonal) the coordinates of an image in the frame Q are

        z = f_3 T_33,   y = f_2 T_22 + f_3 T_32,   x = f_1 T_11 + f_2 T_21 + f_3 T_31,   f = f_j - f_i + n.

    |z| <= R bounds n_3; then y^2 <= R^2 - z^2 bounds n_2; then x bounds n_1. Nothing outside the sphere is
    visited in the last loop, however tiny, needle-shaped, sheared or left-handed the cell, and wherever the
    atoms lie. The compiled library does it on a CPU where it is installed, PyTorch elsewhere.

    Args:
        batch: crystals; geometry is computed in float64 and returned in the type of its positions.
        radius: Angstrom.
        directions: also keep the vectors and lattice translations.

    Raises:
        ConfigError: if the radius is not a positive number.
    """
    if not 0 < radius < math.inf:
        raise ConfigError(f"The radius of the image list must be positive and finite, not {radius:g} Å.")
    positions, lattice = batch.positions.detach().double(), batch.lattice.detach().double()
    cells = Cells.of(positions, lattice, batch.crystal_of_atom, batch.ptr, radius)
    compiled = batch.positions.device.type == "cpu" and library() is not None
    found = enumerate_compiled(cells, directions) if compiled else enumerate_torch(cells)
    images = Images(**found._asdict(), radius=radius)
    if directions and images.vectors is None:
        images = images.moved(replace(batch, positions=positions, lattice=lattice))
    elif not directions:
        images = replace(images, shift=None)
    return images.to(batch.positions.dtype)
