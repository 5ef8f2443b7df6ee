"""The periodic images around each atom: the one data structure that every attention backend reads.

Shapes: A atoms of a batch, C crystals, E images (the edges of the sum), P pairs of atoms that share at least
one image. Lengths in Angstrom.

The set "images within `radius` of atom i" depends on the crystal alone, never on how its cell was drawn.
From that follows invariance to supercells, choice of cell, unwrapped atoms and atom order, and a list whose length
is linear in the number of atoms. (Finding it compares all pairs of atoms of a cell once: 10 ns each.)
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from crystalformers.crystal import CrystalBatch
from crystalformers.errors import ConfigError
from crystalformers.kernels import in_parallel, library, row_function

TAPER_WIDTH = 0.3
"""Width of the shell below `radius` over which the weight of an image falls smoothly to zero (Angstrom)."""

REFERENCE_DENSITY = 0.1
"""Number density for which a tolerance is translated into a radius (atoms/Å³); most crystals are thinner."""

CANDIDATES_PER_CHUNK = 1 << 20
"""Pairs of atoms whose images are enumerated at once; bounds the memory of the construction."""


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
        return len(self.ptr) - 1

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


def taper(distance: Tensor, radius: float) -> Tensor:
    """Quintic step from 1 at `radius - TAPER_WIDTH` to 0 at `radius`; any shape, Angstrom."""
    t = ((radius - distance) / TAPER_WIDTH).clamp(0, 1)
    return t**3 * (10 + t * (6 * t - 15))


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
    cells = Cells(
        frac=torch.linalg.solve(lattice[batch.crystal_of_atom].mT, positions.unsqueeze(-1)).squeeze(-1),
        triangle=torch.linalg.qr(lattice.mT, mode="r").R.mT.contiguous(),
        crystal=batch.crystal_of_atom,
        ptr=batch.ptr,
        radius=radius,
    )
    compiled = batch.positions.device.type == "cpu" and library() is not None
    images = enumerate_compiled(cells, directions) if compiled else enumerate_torch(cells)
    if directions:
        images = images.moved(replace(batch, positions=positions, lattice=lattice))
    else:
        images = replace(images, shift=None)
    return images.to(batch.positions.dtype)


@dataclass(frozen=True)
class Cells:
    """Where the atoms of a batch lie, as the enumeration reads it (float64)."""

    frac: Tensor  # (A, 3)
    triangle: Tensor  # (C, 3, 3)
    crystal: Tensor  # (A,)
    ptr: Tensor  # (C + 1,)
    radius: float


class CCells(ctypes.Structure):
    """`Cells` of images.c, field by field."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("frac", "triangle", "crystal", "ptr")],
        ("radius", ctypes.c_double),
    )


def enumerate_compiled(cells: Cells, directions: bool) -> Images:
    """Images by images.c, in threads."""
    atoms = len(cells.frac)
    tensors = (cells.frac.contiguous(), cells.triangle, cells.crystal.contiguous(), cells.ptr.contiguous())
    c_cells = CCells(*(t.data_ptr() for t in tensors), cells.radius)
    cost = _pointers(cells.ptr.diff()[cells.crystal])
    image_count, pair_count = (torch.empty(atoms, dtype=torch.int64) for _ in range(2))
    in_parallel(row_function("images_count", c_cells, image_count, pair_count), cost)
    ptr, pair_ptr = _pointers(image_count), _pointers(pair_count)
    total, pairs = int(ptr[-1]), int(pair_ptr[-1])
    distance = torch.empty(total, dtype=torch.float64)
    pair = torch.empty(total, dtype=torch.int32)
    shift = torch.empty(total, 3, dtype=torch.int32) if directions else None
    pair_target, pair_source = (torch.empty(pairs, dtype=torch.int64) for _ in range(2))
    filled = (ptr, pair_ptr, distance, pair, shift, pair_target, pair_source)
    in_parallel(row_function("images_fill", c_cells, *filled), cost)
    return Images(distance, pair, ptr, pair_target, pair_source, cells.radius, shift)


def _pointers(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def enumerate_torch(cells: Cells) -> Images:
    """Images by PyTorch alone, on any device, in chunks that bound the memory."""
    chunks = [
        _images_of(target, source, cells.frac, cells.triangle[cells.crystal[target]], cells.radius)
        for target, source in _candidates(cells)
    ]
    target, source, shift, squared, pair = (torch.cat(parts) for parts in zip(*_number_pairs(chunks), strict=True))
    first = torch.ones_like(pair, dtype=torch.bool)
    first[1:] = pair[1:] != pair[:-1]
    distance = squared.sqrt()
    # One key sorts by atom, then by distance: two atoms' keys lie a whole radius apart.
    order = torch.argsort(target * (2 * cells.radius) + distance)
    return Images(
        distance=distance[order],
        pair=pair[order].to(torch.int32),
        ptr=_pointers(torch.bincount(target, minlength=len(cells.frac))),
        pair_target=target[first],
        pair_source=source[first],
        radius=cells.radius,
        shift=shift[order].to(torch.int32),
    )


def _candidates(cells: Cells) -> Iterator[tuple[Tensor, Tensor]]:
    """All ordered pairs of atoms (i, j) of one crystal, in chunks of whole target atoms."""
    start, size = cells.ptr[cells.crystal], cells.ptr.diff()[cells.crystal]
    chunk_of_atom = (size.cumsum(0) - size) // CANDIDATES_PER_CHUNK
    for atoms in torch.arange(len(size), device=size.device).split(
        torch.unique_consecutive(chunk_of_atom, return_counts=True)[1].tolist()
    ):
        target, within = _ranges(size[atoms])
        yield atoms[target], start[atoms][target] + within


def _ranges(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (2, 0, 3) the owner (0, 0, 2, 2, 2) and the position within it (0, 1, 0, 1, 2)."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


def _images_of(
    target: Tensor, source: Tensor, frac: Tensor, triangle: Tensor, radius: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Target, source, shift and squared distance of the images of the candidate pairs, grouped by pair."""
    delta = frac[source] - frac[target]
    index = torch.arange(len(target), device=target.device)
    # Coordinates along the axes still to be bounded, for n = 0; and what is left of R^2.
    x, y, z = (torch.einsum("pk,pk->p", delta[:, k:], triangle[:, k:, k]) for k in range(3))
    room = torch.full_like(z, radius**2)

    owner, n3 = _integers_within(z, triangle[:, 2, 2], room)
    z = z[owner] + n3 * triangle[owner, 2, 2]
    index, room = index[owner], room[owner] - z**2
    y = y[owner] + n3 * triangle[index, 2, 1]

    owner, n2 = _integers_within(y, triangle[index, 1, 1], room)
    y = y[owner] + n2 * triangle[index[owner], 1, 1]
    z, room = z[owner], room[owner] - y**2
    index, n3 = index[owner], n3[owner]
    x = x[index] + n3 * triangle[index, 2, 0] + n2 * triangle[index, 1, 0]

    owner, n1 = _integers_within(x, triangle[index, 0, 0], room)
    x = x[owner] + n1 * triangle[index[owner], 0, 0]
    index = index[owner]
    squared = x**2 + y[owner] ** 2 + z[owner] ** 2
    return target[index], source[index], torch.stack([n1, n2[owner], n3[owner]], dim=-1), squared


def _integers_within(offset: Tensor, step: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Every integer n with (offset + n step)^2 <= room: the row it belongs to, and n."""
    half = room.clamp(min=0).sqrt() / step.abs()
    low = torch.ceil(-offset / step - half)
    counts = (torch.floor(-offset / step + half) - low + 1).clamp(min=0).long()
    owner, within = _ranges(counts)
    return owner, low[owner].long() + within


def _number_pairs(
    chunks: list[tuple[Tensor, Tensor, Tensor, Tensor]],
) -> list[tuple[Tensor, ...]]:
    """Add to each chunk (grouped by pair) the running number of the pair an image belongs to."""
    numbered: list[tuple[Tensor, ...]] = []
    total = 0
    for target, source, shift, squared in chunks:
        new = torch.ones_like(target)
        new[1:] = (target[1:] != target[:-1]) | (source[1:] != source[:-1])
        pair = new.cumsum(0) - 1 + total
        total += int(new.sum())
        numbered.append((target, source, shift, squared, pair))
    return numbered
