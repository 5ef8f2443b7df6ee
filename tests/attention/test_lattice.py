"""Reduced bases against the successive minima of the lattice, found by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from strategies import KINDS, SYMMETRIC_CRYSTALS, make_crystal
from torch import Tensor

from crystalformers.attention.lattice import reduced_basis

LATTICES = {
    **{kind: make_crystal(kind).lattice for kind in KINDS},
    **{name: crystal.lattice for name, crystal in SYMMETRIC_CRYSTALS.items()},
}


def sheared(lattice: np.ndarray, seed: int) -> Tensor:
    """Another basis of the lattice, far from reduced."""
    rng = np.random.default_rng(seed)
    upper, lower = np.eye(3, dtype=int), np.eye(3, dtype=int)
    upper[np.triu_indices(3, 1)], lower[np.tril_indices(3, -1)] = rng.integers(-6, 7, size=(2, 3))
    return torch.from_numpy(upper @ lower @ lattice)


def successive_minima(lattice: np.ndarray) -> list[float]:
    """Lengths of the shortest vector, of the shortest out of its line, and of the shortest out of their plane."""
    n = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    vectors = n[np.abs(n).sum(1) > 0] @ lattice
    vectors = vectors[np.linalg.norm(vectors, axis=1).argsort(kind="stable")]
    chosen = np.zeros((0, 3))
    for vector in vectors:
        if np.linalg.matrix_rank(np.vstack([chosen, vector]), tol=1e-6) > len(chosen):
            chosen = np.vstack([chosen, vector])
    return np.linalg.norm(chosen, axis=1).tolist()


@pytest.mark.parametrize("name", LATTICES)
def test_a_reduced_basis_has_the_shortest_vectors(name: str) -> None:
    skewed = torch.stack([sheared(LATTICES[name], seed) for seed in range(5)])
    expected = successive_minima(reduced_basis(skewed[:1])[0].numpy())
    for before, after in zip(skewed, reduced_basis(skewed), strict=True):
        assert after.norm(dim=1).tolist() == pytest.approx(expected, rel=1e-9)
        change = torch.linalg.solve(before.mT, after.mT)
        torch.testing.assert_close(change, change.round(), rtol=0, atol=1e-6)
        assert abs(float(torch.linalg.det(change))) == pytest.approx(1)


def test_lattices_are_reduced_one_by_one() -> None:
    skewed = torch.stack([sheared(lattice, 0) for lattice in LATTICES.values()])
    alone = torch.cat([reduced_basis(lattice[None]) for lattice in skewed])
    torch.testing.assert_close(reduced_basis(skewed), alone, rtol=0, atol=1e-9)
