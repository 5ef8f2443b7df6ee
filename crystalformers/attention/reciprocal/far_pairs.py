"""Gaussian lattice sums between atoms far apart: the real-space half of `lattice_sums.py`.

Shapes: A atoms of a batch, C crystals, P pairs, E their images, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from crystalformers.attention.lattice import reduced_basis
from crystalformers.images import CrystalBatch, build_images

NEAR = 1e-4
"""Weight of the nearest image of a pair down to which its sum runs in reciprocal space."""


@dataclass(frozen=True)
class FarPairs:
    """Pairs of atoms that are far at least for the narrowest Gaussian, and the images that count.

    Attributes:
        target: atom i, (P,).
        source: atom j, (P,).
        nearest: distance of the nearest image, (P,), Angstrom.
        pair: which pair an image belongs to, (E,).
        shift: its lattice translation n, (E, 3) float64.
    """

    target: Tensor
    source: Tensor
    nearest: Tensor
    pair: Tensor
    shift: Tensor

    def only(self, pairs: Tensor, images: Tensor | None = None) -> FarPairs:
        """The pairs of a mask, (P,), with their images, or those of a mask, (E,)."""
        chosen = pairs[self.pair] if images is None else pairs[self.pair] & images
        number = pairs.cumsum(0) - 1
        return FarPairs(
            self.target[pairs], self.source[pairs], self.nearest[pairs], number[self.pair[chosen]], self.shift[chosen]
        )

    def alpha(self, variance_AH: Tensor, batch: CrystalBatch) -> Tensor:
        """Logarithm of the sum over the images of each pair, (P, H)."""
        lattice_P33 = batch.lattice[batch.crystal_of_atom[self.target]]
        difference_P3 = batch.positions[self.source] - batch.positions[self.target]
        vectors_E3 = difference_P3[self.pair] + torch.einsum("ek,ekx->ex", self.shift, lattice_P33[self.pair])
        nearest_P1 = self.nearest.square().unsqueeze(-1)
        excess_E1 = vectors_E3.square().sum(-1, keepdim=True) - nearest_P1[self.pair]
        variance_PH = variance_AH[self.target]
        weight_EH = torch.exp(-0.5 * excess_E1 / variance_PH[self.pair])
        return torch.zeros_like(variance_PH).index_add(0, self.pair, weight_EH).log() - 0.5 * nearest_P1 / variance_PH


def far_pairs(batch: CrystalBatch, sigma_min: float, tolerance: float) -> FarPairs:
    """The pairs whose nearest image weighs less than NEAR for a Gaussian of width `sigma_min`.

    Args:
        batch: crystals in float64.
        sigma_min: lower bound of all widths, Angstrom.
        tolerance: images are left out once they weigh less than this relative to the nearest one of their pair.
    """
    reach = sigma_min * math.sqrt(-2 * math.log(NEAR))
    kappa = math.sqrt(1 + math.log(tolerance) / math.log(NEAR))
    positions, lattice = batch.positions.detach(), batch.lattice.detach()
    found = [FarPairs(batch.ptr[:0], batch.ptr[:0], positions[:0, 0], batch.ptr[:0], positions[:0])]
    total = 0
    for crystal, covering in enumerate(covering_radius(lattice).tolist()):
        if covering <= reach:
            continue
        first, last = batch.ptr[crystal : crystal + 2].tolist()
        ptr = batch.ptr.new_tensor([0, last - first])
        alone = CrystalBatch(batch.numbers[first:last], positions[first:last], lattice[crystal, None], ptr)
        images = build_images(alone, kappa * covering, directions=True)
        assert images.shift is not None
        target, source, pair = images.pair_target + first, images.pair_source + first, images.pair.long()
        nearest = positions.new_full((len(target),), math.inf).scatter_reduce(0, pair, images.distance, "amin")
        every = FarPairs(target, source, nearest, pair, images.shift.double())
        far = every.only(nearest > reach, images.distance <= kappa * nearest[pair])
        found.append(replace(far, pair=far.pair + total))
        total += len(far.target)
    return FarPairs(*(torch.cat([getattr(pairs, field.name) for pairs in found]) for field in fields(FarPairs)))


def covering_radius(lattice: Tensor) -> Tensor:
    """Upper bound of the distance from any point to the lattice, (C,), Angstrom.

    A point is rounded to the lattice one coordinate of a triangular basis after the other, each to within half the
    diagonal entry. The bound holds for any basis, and is close for a reduced one.
    """
    basis = reduced_basis(lattice.detach().double())
    diagonal = torch.linalg.qr(basis.mT, mode="r").R.diagonal(dim1=-2, dim2=-1)
    return 0.5 * diagonal.norm(dim=-1)
