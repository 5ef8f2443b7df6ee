"""The cutoff envelope, the tail of the Gaussians beyond a radius, and the radius for a tolerance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from strategies import make_crystal
from torch import Tensor

from crystalformers.crystal import Crystal
from crystalformers.images import (
    ENVELOPE_WIDTH,
    CrystalBatch,
    build_images,
    envelope,
    radius_for,
    tail,
)


def test_the_envelope_falls_smoothly_from_one_to_zero() -> None:
    radius = 6.0
    distance = torch.linspace(0, radius + 1, 2001, dtype=torch.float64)
    weight = envelope(distance, radius)
    assert (weight[distance <= radius - ENVELOPE_WIDTH] == 1).all()
    assert (weight[distance >= radius] == 0).all()
    assert (weight.diff() <= 0).all()
    assert envelope(torch.tensor(radius - ENVELOPE_WIDTH / 2), radius) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("edge", [6.0, 6.0 - ENVELOPE_WIDTH])
def test_the_envelope_is_twice_differentiable_at_its_edges(edge: float) -> None:
    def derivatives(distance: float) -> list[float]:
        at = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        first: Tensor = torch.autograd.grad(envelope(at, 6.0), at, create_graph=True)[0]
        second = torch.autograd.grad(first, at)[0] if first.requires_grad else torch.zeros(())
        return [first.item(), second.item()]

    step = 1e-6
    for order in range(2):
        jump = derivatives(edge + step)[order] - derivatives(edge - step)[order]
        third = 60 / ENVELOPE_WIDTH**3
        assert abs(jump) < 3 * third * step ** (2 - order), f"derivative {order + 1} jumps by {jump}"
    assert torch.autograd.gradcheck(
        lambda d: envelope(d, 6.0), torch.linspace(5.5, 6.1, 13, dtype=torch.float64, requires_grad=True)
    )


def lattice_tail(crystal: Crystal, sigma: float, radius: float, farthest: float) -> float:
    """Weight of the images of all atoms between two radii, largest over the atoms, by a lattice sum."""
    images = build_images(CrystalBatch.from_crystals([crystal]), farthest)
    weight = torch.exp(-0.5 * (images.distance / sigma) ** 2)
    weight[images.distance <= radius] = 0
    return float(torch.zeros(images.n_atoms, dtype=torch.float64).index_add(0, images.target, weight).max())


@pytest.mark.parametrize("sigma", [1.0, 1.4, 1.98])
@pytest.mark.parametrize("kind", ["random", "tiny", "symmetric", "sheared"])
def test_the_tail_is_that_of_a_lattice_sum(kind: str, sigma: float) -> None:
    """Atoms sit on shells, so single radii scatter around the continuum's answer; their mean hardly does."""
    crystal = make_crystal(kind, 4, seed=1)
    density = len(crystal) / crystal.volume
    ratios = [
        lattice_tail(crystal, sigma, radius, 12 * sigma) / tail(radius, sigma, density)
        for radius in np.linspace(4.0, 6.0, 9) * sigma
    ]
    assert max(ratios) < 5
    assert 0.5 < np.exp(np.mean(np.log(ratios))) < 1.6


def test_the_tail_at_published_points() -> None:
    for radius, sigma, expected in ((3.5, 1.4, 2.8e-2), (4.5, 1.4, 6.5e-4), (6.0, 1.4, 3.2e-7), (6.5, 1.98, 4.3e-8)):
        assert tail(radius * sigma, sigma, 0.1) == pytest.approx(expected, rel=0.05)
    assert tail(0.0, 1.4, 0.1) == pytest.approx(0.1 * (2 * math.pi * 1.4**2) ** 1.5)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-10, 1e-14])
def test_the_radius_keeps_what_it_promises(tolerance: float) -> None:
    sigma = 1.98
    radius = radius_for(tolerance, sigma)
    assert tail(radius - ENVELOPE_WIDTH, sigma) <= tolerance
    assert tail(radius - ENVELOPE_WIDTH - 0.01, sigma) > tolerance
    crystal = make_crystal("symmetric", seed=4)
    dense = max(1.0, len(crystal) / crystal.volume / 0.1)
    assert lattice_tail(crystal, sigma, radius - ENVELOPE_WIDTH, 14 * sigma) < 3 * dense * tolerance


def test_the_radius_grows_with_sigma_and_precision() -> None:
    assert radius_for(1e-7, 1.4) < radius_for(1e-7, 1.98) < radius_for(1e-12, 1.98) < 17
