"""Reduced bases of lattices, on which frames of a crystal and bounds on lattice sums are built.

Shapes: C lattices, with their vectors as rows. Lengths in Angstrom.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reduced_basis(lattice: Tensor) -> Tensor:
    """Bases of the same lattices made of the shortest vectors there are (Minkowski-reduced), shortest first, (C, 3, 3).

    The second vector is shortened by the first, and the third by the lattice points of both near its projection, until
    nothing changes; in three dimensions the eight neighbours of the projection suffice (Semaev 2001). A vector gives
    way only to one that is shorter by more than rounding, so that ties stay as they are.

    Args:
        lattice: any bases, (C, 3, 3).
    """
    offsets = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=lattice.dtype, device=lattice.device)] * 2)
    basis, changed = lattice, True
    while changed:
        order = basis.norm(dim=-1).argsort(dim=-1, stable=True)
        basis = basis.take_along_dim(order.unsqueeze(-1), dim=1)
        plane, (first, second, third) = basis[:, :2], basis.unbind(1)
        times = ((first * second).sum(-1, keepdim=True) / first.square().sum(-1, keepdim=True)).round()
        near = torch.linalg.lstsq(plane.mT, third.unsqueeze(-1)).solution.mT.round()
        candidates = third.unsqueeze(1) - (near + offsets) @ plane
        nearest = candidates.norm(dim=-1).argmin(1)[:, None, None]
        shorter = torch.stack([first, second - times * first, candidates.take_along_dim(nearest, 1).squeeze(1)], dim=1)
        better = shorter.norm(dim=-1, keepdim=True) < basis.norm(dim=-1, keepdim=True) * (1 - 1e-12)
        basis, changed = torch.where(better, shorter, basis), bool(better.any())
    return basis
