"""Lattice sums of Gaussians, each in the space where it converges faster.

    S_ij = sum_n exp(-|p_j + n L - p_i|^2 / 2 s_i^2)
         = (2 pi s_i^2)^(3/2) / V sum_m exp(-s_i^2 |w_m|^2 / 2) cos(w_m . (p_j - p_i))                   (Poisson)

The frequencies w_m are all those within a cutoff that follows from a tolerance, so the sums depend on the crystal and
not on its cell. Let d be the distance of the nearest image of j from i; pairing n with -n shows
S_ij >= S_ii exp(-d^2 / 2 s^2). Hence

* near pairs, exp(-d^2 / 2 s^2) >= NEAR, in reciprocal space: the neglected frequencies hold at most `tolerance` of
  S_ii, that is `tolerance` / NEAR of S_ij; rounding adds 1e-15 / NEAR;
* far pairs, where the cosines cancel to a small difference of large terms, in real space: the images within kappa d,
  kappa^2 = 1 + log(tolerance) / log(NEAR). Since 2 s^2 < d^2 / log(1 / NEAR), each image beyond weighs less than
  `tolerance` of the nearest, however wide the Gaussian.

So log S is right to 1e-8 for `tolerance` 1e-12, however small S is; nothing is clamped, and every gradient is that of
the sum. Small cells have no far pairs at all. Sums are computed in float64 also for features of another type: float32
is too coarse for cosines of large phases that nearly cancel.

Shapes: A atoms of a batch, C crystals, P far pairs, E their images, H heads. Within a block: G crystals side by side,
I target atoms, N source atoms, M frequencies, padded to the largest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from crystalformers.attention.reciprocal.far_pairs import NEAR, FarPairs, far_pairs
from crystalformers.images import CrystalBatch, build_images, pointers, radius_of_tail

LARGEST_TOLERANCE = NEAR / 10
"""Largest tolerance that is used: sums of near pairs must stay positive."""

BLOCK_ELEMENTS = 1 << 19
"""Target atoms times frequencies (or sources) of one block, per head; bounds the memory."""


@dataclass(frozen=True)
class LatticeSums:
    """How the lattice sums of a batch run: what all heads and layers share.

    Attributes:
        batch: the crystals, in float64.
        frac: fractional coordinates, wrapped to keep phases small, (A, 3).
        frequencies: reciprocal lattice vectors within the cutoff.
        squared: |w|^2 of every frequency, 1/Å².
        blocks: parts that are summed one after the other.
    """

    batch: CrystalBatch
    frac: Tensor
    frequencies: Frequencies
    squared: Tensor
    blocks: Sequence[SumBlock]

    @classmethod
    def plan(cls, batch: CrystalBatch, sigma_min: float, tolerance: float) -> LatticeSums:
        """Choose frequencies and far images for Gaussians no narrower than `sigma_min` (Angstrom).

        Args:
            batch: crystals; positions and lattice may require gradients. Images are not needed.
            sigma_min: lower bound of s; there is no upper one.
            tolerance: largest error of a weight relative to the atom's weight on itself, at most LARGEST_TOLERANCE.
        """
        batch = batch.in_float64()
        tolerance = min(tolerance, LARGEST_TOLERANCE)
        frac = torch.linalg.solve(batch.lattice[batch.crystal_of_atom].mT, batch.positions.unsqueeze(-1)).squeeze(-1)
        found = frequencies(batch.lattice, cutoff_for(tolerance, sigma_min))
        dual = torch.repeat_interleave(dual_lattice(batch.lattice), found.ptr.diff(), dim=0)
        return cls(
            batch,
            frac - frac.detach().floor(),
            found,
            torch.einsum("mk,mkx->mx", found.m, dual).square().sum(-1),
            list(_blocks(batch, found, far_pairs(batch, sigma_min, tolerance))),
        )

    @cached_property
    def order(self) -> Tensor:
        """Where each atom lies among the rows of all blocks, (A,)."""
        return torch.cat([block.target[block.is_target] for block in self.blocks]).argsort()

    def alpha(self, block: SumBlock, variance_AH: Tensor) -> Tensor:
        """alpha_ij of a block, (G, I, H, N); zero where a target or a source is padding."""
        total_GIHN = self._cosines(block, variance_AH)
        variance_GIH1 = variance_AH[block.target].unsqueeze(-1)
        log_factor_GIH1 = log_factor(variance_GIH1, self.batch.lattice[block.crystal, None, None])
        far, (g, i, j) = block.far, block.slots
        is_far_GIHN = torch.zeros_like(total_GIHN, dtype=torch.bool)
        is_far_GIHN[g, i, :, j] = torch.exp(-0.5 * far.nearest[:, None] ** 2 / variance_AH[far.target]) < NEAR
        far_GIHN = torch.zeros_like(total_GIHN)
        far_GIHN[g, i, :, j] = far.alpha(variance_AH, self.batch)
        is_near_GIHN = (block.is_target[:, :, None] & block.is_source[:, None])[:, :, None] & ~is_far_GIHN
        # The sums of far pairs and of padding may be negative: the inner `where` keeps them out of the logarithm.
        near_GIHN = torch.where(is_near_GIHN, total_GIHN, 1).log() + log_factor_GIH1
        return torch.where(is_near_GIHN, near_GIHN, torch.where(is_far_GIHN, far_GIHN, 0))

    def _cosines(self, block: SumBlock, variance_AH: Tensor) -> Tensor:
        """sum_m exp(-s_i^2 |w_m|^2 / 2) cos(w_m . (p_j - p_i)) as one matrix product per crystal, (G, I, H, N)."""
        m_GM3 = self.frequencies.m[block.frequency]
        multiplicity_GM = self.frequencies.multiplicity[block.frequency] * block.is_frequency
        exponent_GIHM = variance_AH[block.target].unsqueeze(-1) * self.squared[block.frequency][:, None, None]
        weight_GIHM = torch.exp(-0.5 * exponent_GIHM) * multiplicity_GM[:, None, None]
        target_GIW = self._waves(block.target, m_GM3)
        source_GNW = self._waves(block.source, m_GM3)
        left_GIHW = torch.cat([weight_GIHM, weight_GIHM], -1) * target_GIW[:, :, None]
        return (left_GIHW.flatten(1, 2) @ source_GNW.mT).unflatten(1, left_GIHW.shape[1:3])

    def _waves(self, atoms_GN: Tensor, m_GM3: Tensor) -> Tensor:
        """Cosines and sines of w_m . p, (G, N, 2 M)."""
        turns = self.frac[atoms_GN] @ m_GM3.mT
        phase = 2 * math.pi * (turns - turns.detach().round())
        return torch.cat([phase.cos(), phase.sin()], -1)


@dataclass(frozen=True)
class Frequencies:
    """Reciprocal lattice vectors w = 2 pi L^-1 m of many crystals; of w and -w only one, counted twice.

    Attributes:
        m: integer coordinates, (all frequencies, 3) float64, grouped by crystal, by length within it, 0 first.
        multiplicity: 1 for m = 0, otherwise 2.
        ptr: first frequency of each crystal and the total, (C + 1,) int64.
    """

    m: Tensor
    multiplicity: Tensor
    ptr: Tensor


def frequencies(lattice: Tensor, cutoff: float) -> Frequencies:
    """All |w| <= `cutoff` (1/Å, 2 pi included) of lattices (C, 3, 3): the images of a point in the dual lattice."""
    dual = dual_lattice(lattice.detach().double())
    crystals = torch.arange(len(lattice) + 1, device=lattice.device)
    points = CrystalBatch(numbers=crystals[1:], positions=torch.zeros_like(dual[:, 0]), lattice=dual, ptr=crystals)
    images = build_images(points, cutoff, directions=True)
    assert images.shift is not None
    # Positive where the first component that is not zero is.
    side = (images.shift.sign() * images.shift.new_tensor([4, 2, 1])).sum(-1)
    half = side >= 0
    return Frequencies(
        m=images.shift[half].double(),
        multiplicity=torch.where(side[half] > 0, 2, 1),
        ptr=pointers(torch.bincount(images.target[half], minlength=len(lattice))),
    )


def cutoff_for(tolerance: float, sigma: float) -> float:
    """|w| (1/Å) beyond which frequencies add at most `tolerance` to a sum of Gaussians of width `sigma` or more.

    The tail is that of real space with 1/sigma for sigma and V / (2 pi)^3 for the density; V cancels.
    """
    return radius_of_tail(tolerance, 1 / sigma, density=sigma**3 / (2 * math.pi) ** 1.5)


@dataclass(frozen=True)
class SumBlock:
    """Crystals of similar size side by side, or some target atoms of one crystal; padding repeats a first entry.

    Attributes:
        crystal: (G,).
        target: atoms that attend, (G, I), and `is_target` which of them are not padding.
        source: atoms attended to, (G, N), and `is_source`.
        frequency: (G, M), and `is_frequency`.
        far: the far pairs among them.
        slots: where in (G, I, N) each far pair lies, three tensors (P,).
        partial: whether the block holds only part of its crystal.
    """

    crystal: Tensor
    target: Tensor
    is_target: Tensor
    source: Tensor
    is_source: Tensor
    frequency: Tensor
    is_frequency: Tensor
    far: FarPairs
    slots: tuple[Tensor, Tensor, Tensor]
    partial: bool


def _blocks(batch: CrystalBatch, found: Frequencies, far: FarPairs) -> Iterator[SumBlock]:
    """Crystals of similar cost together; one that is too large alone, a few target atoms at a time."""
    sizes = batch.ptr.diff().tolist()
    widths = [max(pair) for pair in zip(sizes, found.ptr.diff().tolist(), strict=True)]
    for group in _groups(sizes, widths):
        size, width = max(sizes[c] for c in group), max(widths[c] for c in group)
        step = size if len(group) > 1 else max(1, BLOCK_ELEMENTS // width)
        for start in range(0, size, step):
            yield _block(batch, found, far, batch.ptr.new_tensor(group), range(start, min(start + step, size)))


def _groups(sizes: list[int], widths: list[int]) -> Iterator[list[int]]:
    """Crystals whose padded arrays stay below BLOCK_ELEMENTS and, unless they are small, below twice what they hold."""
    cost = [size * width for size, width in zip(sizes, widths, strict=True)]
    group: list[int] = []
    for crystal in sorted(range(len(sizes)), key=cost.__getitem__):
        wider = [*group, crystal]
        padded = len(wider) * max(sizes[c] for c in wider) * max(widths[c] for c in wider)
        if group and padded > min(BLOCK_ELEMENTS, max(2 * sum(cost[c] for c in wider), BLOCK_ELEMENTS // 16)):
            yield group
            wider = [crystal]
        group = wider
    yield group


def _block(batch: CrystalBatch, found: Frequencies, far: FarPairs, crystal: Tensor, rows: range) -> SumBlock:
    """The target atoms `rows` of some crystals (those that they have), with all their sources and frequencies."""
    first, size = batch.ptr[crystal], batch.ptr.diff()[crystal]
    target, is_target = _padded(first + rows.start, (size - rows.start).clamp(max=len(rows)))
    row, place = torch.full((2, batch.n_atoms), -1, device=first.device)
    row[target[is_target]] = is_target.nonzero()[:, 1]
    place[target[is_target]] = is_target.nonzero()[:, 0]
    far = far.only(row[far.target] >= 0)
    slot = place[far.target]
    return SumBlock(
        crystal,
        target,
        is_target,
        *_padded(first, size),
        *_padded(found.ptr[crystal], found.ptr.diff()[crystal]),
        far,
        (slot, row[far.target], far.source - first[slot]),
        partial=len(rows) < int(size.max()),
    )


def _padded(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges side by side, (G, longest), and which entries are not padding."""
    column = torch.arange(int(count.max()), device=count.device)
    real = column < count[:, None]
    return first[:, None] + torch.where(real, column, 0), real


def dual_lattice(lattice: Tensor) -> Tensor:
    """Reciprocal lattice vectors as rows, 2 pi included, (..., 3, 3), 1/Å."""
    return 2 * math.pi * torch.linalg.inv(lattice).mT


def log_factor(variance: Tensor, lattice: Tensor) -> Tensor:
    """log[(2 pi s^2)^(3/2) / V]."""
    return 1.5 * torch.log(2 * math.pi * variance) - torch.linalg.slogdet(lattice).logabsdet.unsqueeze(-1)
