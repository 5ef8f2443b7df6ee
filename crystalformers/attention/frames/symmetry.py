"""The lattice of all translations of a crystal, for frames that must not depend on the cell it is given in.

Everything here is float64 and about one crystal. Shapes: N atoms, P pairs. Lengths in Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from crystalformers.attention.lattice import reduced_basis
from crystalformers.images import smooth_step

PAIRS_AT_A_TIME = 1 << 16
"""Pairs of atoms that are compared at once; bounds the memory in large cells."""

SAME_PLACE = 1e-3
"""Two atoms closer than this after a translation are at the same place (Angstrom)."""


def translation_lattice(numbers: Tensor, frac: Tensor, lattice: Tensor) -> Tensor:
    """Shortest basis of all translations that map the crystal onto itself: that of its primitive cell, (3, 3).

    Args:
        numbers: atomic numbers, (N,).
        frac: fractional coordinates, (N, 3).
        lattice: rows, (3, 3).
    """
    kinds, counts = numbers.unique(return_counts=True)
    rarest = frac[numbers == kinds[counts.argmin()]]
    [basis] = reduced_basis(lattice[None])
    for step in rarest[1:] - rarest[0]:
        coordinates = torch.linalg.solve(basis.mT, lattice.mT @ step)
        offset = coordinates - coordinates.round()
        if (offset @ basis).norm() < SAME_PLACE or not _is_translation(step, numbers, frac, lattice):
            continue
        [basis] = reduced_basis(_merged(basis, offset)[None])
    return basis


def _is_translation(step: Tensor, numbers: Tensor, frac: Tensor, lattice: Tensor) -> bool:
    """Whether every atom, moved by `step` (fractional), lands on one of its own kind."""
    for kind in numbers.unique():
        atoms = frac[numbers == kind]
        few = min(8, len(atoms))  # nearly every step fails at the first atoms
        for moved in (atoms[:few], *atoms[few:].split(max(1, PAIRS_AT_A_TIME // len(atoms)))):
            delta = (moved + step)[:, None] - atoms
            distance = ((delta - delta.round()) @ lattice).norm(dim=-1)
            if (distance.amin(1) > SAME_PLACE).any():
                return False
    return True


def _merged(basis: Tensor, offset: Tensor) -> Tensor:
    """A basis of the lattice that `basis` and one more translation, offset @ basis, generate.

    The translation leads back to the lattice after some number m of steps, so that m times its coefficients are
    integers; the integer rows m e_1, m e_2, m e_3 and m offset are brought to triangular form by Euclid's algorithm.
    """
    m = 2
    while ((m * offset - (m * offset).round()) @ basis).norm() > m * SAME_PLACE:
        m += 1
    rows = [[m, 0, 0], [0, m, 0], [0, 0, m], [int(k) for k in (m * offset).round().tolist()]]
    triangle = []
    for column in range(3):
        while sum(row[column] != 0 for row in rows) > 1:
            pivot = min((row for row in rows if row[column]), key=lambda row: abs(row[column]))
            for row in rows:
                if row is not pivot and row[column]:
                    times = row[column] // pivot[column]
                    row[:] = [x - times * y for x, y in zip(row, pivot, strict=True)]
        pivot = next(row for row in rows if row[column])
        triangle.append(pivot)
        rows = [row for row in rows if row is not pivot]
    return torch.tensor(triangle, dtype=basis.dtype) @ basis / m


def shortest_vectors(basis: Tensor) -> Tensor:
    """Lattice vectors among which are the three shortest independent ones and all that tie with them, (V, 3).

    They are the combinations of a reduced basis with coefficients -1, 0 and 1.
    """
    coefficients = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=basis.dtype)] * 3)
    return coefficients[coefficients.abs().sum(1) > 0] @ reduced_basis(basis[None])[0]


def nearest_differences(positions: Tensor, basis: Tensor, tie_width: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Differences of all pairs of atoms to their nearest images, (P, 3), and the share of each, (P,), adding up to 1.

    They come in parts, some atoms at a time. Images less than `tie_width` (Angstrom) farther than the nearest share
    the pair, with weight falling smoothly to 0.
    """
    offsets = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=basis.dtype)] * 3)
    for atoms in positions.split(max(1, PAIRS_AT_A_TIME // len(positions))):
        delta = atoms[:, None] - positions
        frac = torch.linalg.solve(basis.mT, delta.unsqueeze(-1)).squeeze(-1)
        images = ((frac - frac.round())[:, :, None] + offsets) @ basis
        distance = images.norm(dim=-1)
        share = 1 - smooth_step((distance - distance.amin(-1, keepdim=True)) / tie_width)
        share = share / share.sum(-1, keepdim=True) / len(positions) ** 2
        chosen = share > 0
        yield images[chosen], share[chosen]
