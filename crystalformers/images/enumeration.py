"""Which periodic images lie within a radius of each atom, and how far: the enumeration behind `images.build_images`.

Shapes: A atoms of a batch, B bins, C crystals, E images, P pairs. Lengths in Angstrom, float64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalformers.csrc.kernels import BoundKernel, in_parallel
from crystalformers.images.batch import ONE_SPOT, Images

CANDIDATES_PER_CHUNK = 1 << 20
"""Pairs of atoms whose images PyTorch enumerates at once; bounds the memory of the construction."""

LARGEST_WITHOUT_BINS = 64
"""Atoms of a cell up to which all pairs are tried: sorting them into bins would cost more."""

BINS_PER_RADIUS = 4
"""Bins are at least this part of the radius wide."""


@dataclass(frozen=True)
class Bins:
    """The atoms of each crystal sorted into a grid of bins along its lattice vectors.

    A crystal too small for bins to leave any atom out has a single one.

    Attributes:
        count: bins along each lattice vector, (C, 3).
        reach: how many bins away, either way, an image within the radius may lie, (C, 3).
        first: first bin of each crystal, (C,).
        bin: bin of each atom, (A,).
        ptr: first atom of each bin in `atoms`, and the total, (B + 1,).
        atoms: bin by bin, ascending within one, (A,).
        near: about how many atoms the bins within reach hold, (C,).
    """

    count: Tensor
    reach: Tensor
    first: Tensor
    bin: Tensor
    ptr: Tensor
    atoms: Tensor
    near: Tensor

    @classmethod
    def of(cls, frac: Tensor, triangle: Tensor, crystal: Tensor, ptr: Tensor, radius: float) -> Bins:
        """Bins for the images within `radius`; the tensors are those of `BinnedAtoms`."""
        sizes = ptr.diff()
        if sizes.max() <= LARGEST_WITHOUT_BINS:
            first, one = torch.arange(len(sizes), device=ptr.device), sizes.new_ones(len(sizes), 3)
            return cls(one, 0 * one, first, crystal, ptr, torch.arange(len(frac), device=ptr.device), sizes)
        per_spacing = torch.linalg.inv(triangle).norm(dim=1)
        wanted = (BINS_PER_RADIUS / (radius * per_spacing)).clamp(max=sizes.unsqueeze(-1))
        # In a nearly empty cell there should be no more bins than atoms, roughly.
        crowded = (sizes / wanted.clamp(min=1).prod(-1)).pow(1 / 3).clamp(max=1)
        count = (wanted * crowded.unsqueeze(-1)).floor().clamp(min=1)
        reach = (radius * per_spacing * count * (1 + 1e-9)).floor() + 1
        useless = 2 * reach + 1 >= count
        count, reach = count.masked_fill(useless, 1).long(), reach.masked_fill(useless, 0).long()
        total = count.prod(-1)
        first, m = total.cumsum(0) - total, count[crystal]
        place = ((frac - frac.floor()) * m).long().minimum(m - 1)
        of_atom = first[crystal] + (place[:, 0] * m[:, 1] + place[:, 1]) * m[:, 2] + place[:, 2]
        bin_ptr = pointers(torch.bincount(of_atom, minlength=int(total.sum())))
        near = (sizes * ((2 * reach + 1) / count).prod(-1)).ceil().long()
        return cls(count, reach, first, of_atom, bin_ptr, torch.argsort(of_atom, stable=True), near)

    def around(self, atoms: Tensor, crystal: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of one of some atoms (an index into `atoms`) and a bin within its reach."""
        m, reach = self.count[crystal], self.reach[crystal]
        width = 2 * reach + 1
        owner, k = ranges(width.prod(-1))
        m, reach, width, own = m[owner], reach[owner], width[owner], (self.bin[atoms] - self.first[crystal])[owner]
        step = torch.stack([k // (width[:, 1] * width[:, 2]), k // width[:, 2] % width[:, 1], k % width[:, 2]], -1)
        place = torch.stack([own // (m[:, 1] * m[:, 2]), own // m[:, 2] % m[:, 1], own % m[:, 2]], -1)
        place = (place + step - reach) % m
        return owner, self.first[crystal][owner] + (place[:, 0] * m[:, 1] + place[:, 1]) * m[:, 2] + place[:, 2]


@dataclass(frozen=True)
class BinnedAtoms:
    """The atoms of a batch and their bins, as the enumeration reads them."""

    positions: Tensor  # (A, 3)
    lattice: Tensor  # (C, 3, 3)
    frac: Tensor  # (A, 3)
    triangle: Tensor  # (C, 3, 3) lower triangular T of L = T Q
    crystal: Tensor  # (A,)
    ptr: Tensor  # (C + 1,)
    bins: Bins
    radius: float


def pointers(counts: Tensor) -> Tensor:
    """Start of each of consecutive ranges of the given lengths, and the total."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def ranges(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (2, 0, 3) the owner (0, 0, 2, 2, 2) and the position within it (0, 1, 0, 1, 2)."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


# --- in C (images.c) ---


class CBinnedAtoms(ctypes.Structure):
    """`BinnedAtoms` of image_search.h, field by field."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("positions", "lattice", "frac", "triangle", "crystal", "ptr")],
        *[(name, ctypes.c_void_p) for name in ("bins", "reach", "first_bin", "bin", "bin_ptr", "binned")],
        ("radius", ctypes.c_double),
    )


class CImageLists(ctypes.Structure):
    """`ImageLists` of images.c, field by field."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("ptr", "pair_ptr", "distance", "pair", "pair_target", "pair_source", "shift", "vectors")
    )


def enumerate_compiled(binned: BinnedAtoms, directions: bool) -> Images:
    """Images by images.c, in threads; with `directions` also the lattice translations and vectors."""
    atoms, bins = len(binned.frac), binned.bins
    tensors = [binned.positions, binned.lattice, binned.frac, binned.triangle, binned.crystal, binned.ptr]
    tensors += [bins.count, bins.reach, bins.first, bins.bin, bins.ptr, bins.atoms]
    c_binned = CBinnedAtoms(*(t.data_ptr() for t in tensors), binned.radius)
    cost = pointers(bins.near[binned.crystal])
    image_count, pair_count = (torch.empty(atoms, dtype=torch.int64) for _ in range(2))
    in_parallel(BoundKernel("images_count", c_binned, image_count, pair_count), cost)
    ptr, pair_ptr = pointers(image_count), pointers(pair_count)
    total, pairs = int(ptr[-1]), int(pair_ptr[-1])
    distance, pair = torch.empty(total, dtype=torch.float64), torch.empty(total, dtype=torch.int32)
    pair_target, pair_source = (torch.empty(pairs, dtype=torch.int64) for _ in range(2))
    shift = torch.empty(total, 3, dtype=torch.int32) if directions else None
    vectors = torch.empty(total, 3, dtype=torch.float64) if directions else None
    filled = (ptr, pair_ptr, distance, pair, pair_target, pair_source, shift, vectors)
    lists = CImageLists(*(None if t is None else t.data_ptr() for t in filled))
    in_parallel(BoundKernel("images_fill", c_binned, lists), cost)
    return Images(distance, pair, ptr, pair_target, pair_source, binned.radius, shift, vectors)


# --- in PyTorch, on any device ---


def enumerate_torch(binned: BinnedAtoms) -> Images:
    """Images with their lattice translations by PyTorch, in chunks that bound the memory."""
    chunks = [
        _images_of(target, source, binned.frac, binned.triangle[binned.crystal[target]], binned.radius)
        for target, source in _pairs_to_try(binned)
    ]
    target, source, shift, squared, pair = (torch.cat(parts) for parts in zip(*_number_pairs(chunks), strict=True))
    first = torch.ones_like(pair, dtype=torch.bool)
    first[1:] = pair[1:] != pair[:-1]
    distance = squared.sqrt()
    distance = torch.where(distance > ONE_SPOT, distance, 0.0)
    # One key sorts by atom, then by distance: two atoms' keys lie a whole radius apart.
    order = torch.argsort(target * (2 * binned.radius) + distance)
    return Images(
        distance=distance[order],
        pair=pair[order].to(torch.int32),
        ptr=pointers(torch.bincount(target, minlength=len(binned.frac))),
        pair_target=target[first],
        pair_source=source[first],
        radius=binned.radius,
        shift=shift[order].to(torch.int32),
    )


def _pairs_to_try(binned: BinnedAtoms) -> Iterator[tuple[Tensor, Tensor]]:
    """Ordered pairs of atoms (i, j) that may share an image, in chunks of whole target atoms."""
    bins, cost = binned.bins, binned.bins.near[binned.crystal]
    chunk_of_atom = (cost.cumsum(0) - cost) // CANDIDATES_PER_CHUNK
    for atoms in torch.arange(len(cost), device=cost.device).split(
        torch.unique_consecutive(chunk_of_atom, return_counts=True)[1].tolist()
    ):
        owner, bin_ = bins.around(atoms, binned.crystal[atoms])
        visit, within = ranges(bins.ptr.diff()[bin_])
        yield atoms[owner[visit]], bins.atoms[bins.ptr[bin_[visit]] + within]


def _images_of(
    target: Tensor, source: Tensor, frac: Tensor, triangle: Tensor, radius: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Target, source, shift and squared distance of the images of the candidate pairs, grouped by pair."""
    delta = frac[source] - frac[target]
    index = torch.arange(len(target), device=target.device)
    # Coordinates along the axes still to be bounded, for n = 0; and what is left of R^2.
    x, y, z = (torch.einsum("pk,pk->p", delta[:, k:], triangle[:, k:, k]) for k in range(3))
    remaining = torch.full_like(z, radius**2)

    owner, n3 = _integers_within(z, triangle[:, 2, 2], remaining)
    z = z[owner] + n3 * triangle[owner, 2, 2]
    index, remaining = index[owner], remaining[owner] - z**2
    y = y[owner] + n3 * triangle[index, 2, 1]

    owner, n2 = _integers_within(y, triangle[index, 1, 1], remaining)
    y = y[owner] + n2 * triangle[index[owner], 1, 1]
    z, remaining = z[owner], remaining[owner] - y**2
    index, n3 = index[owner], n3[owner]
    x = x[index] + n3 * triangle[index, 2, 0] + n2 * triangle[index, 1, 0]

    owner, n1 = _integers_within(x, triangle[index, 0, 0], remaining)
    x = x[owner] + n1 * triangle[index[owner], 0, 0]
    index = index[owner]
    squared = x**2 + y[owner] ** 2 + z[owner] ** 2
    return target[index], source[index], torch.stack([n1, n2[owner], n3[owner]], dim=-1), squared


def _integers_within(offset: Tensor, step: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor]:
    """Every integer n with (offset + n step)^2 <= remaining: the row it belongs to, and n."""
    half = remaining.clamp(min=0).sqrt() / step.abs()
    low = torch.ceil(-offset / step - half)
    counts = (torch.floor(-offset / step + half) - low + 1).clamp(min=0).long()
    owner, within = ranges(counts)
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
