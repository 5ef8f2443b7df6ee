"""Batches gathered on a device are those that are packed on the host, filled up to a fixed shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import random_crystals

from benchmarks.gpu.resident import Capacity, ResidentCrystals
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

CRYSTALS = random_crystals(12)
RADIUS = 4.0
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCHES = [np.array([3, 0, 7]), np.array([11, 11, 5]), np.array([1, 2, 4])]


def packed(rows: list[int]) -> CrystalBatch:
    batch = CrystalBatch.from_crystals([CRYSTALS[row] for row in rows])
    return with_images(batch, RADIUS).to(torch.float32)


@pytest.fixture(scope="module")
def resident() -> ResidentCrystals:
    return ResidentCrystals([packed(list(range(5))), packed(list(range(5, 12)))], DEVICE)


def test_a_gathered_batch_is_the_packed_one(resident: ResidentCrystals) -> None:
    capacity = resident.capacity(BATCHES)
    for rows in BATCHES:
        resident.check(rows, capacity)
        filled = resident.batch(torch.from_numpy(rows).to(DEVICE), capacity).to("cpu")
        expected, atoms = packed(rows.tolist()), int(resident.sizes[0, rows].sum())
        ours, theirs = filled.images, expected.images
        assert ours is not None
        assert theirs is not None
        assert torch.equal(filled.numbers[:atoms], expected.numbers)
        assert torch.equal(filled.ptr[:-1], expected.ptr)
        assert torch.equal(ours.ptr[: atoms + 1], theirs.ptr)
        for name in ("distance", "pair", "pair_target", "pair_source"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            assert mine.dtype == other.dtype
            assert torch.equal(mine[: len(other)], other), name
        assert (filled.n_atoms, len(ours.pair_target), len(ours.pair)) == (
            capacity.atoms,
            capacity.pairs,
            capacity.images,
        )


def test_atoms_that_fill_up_see_only_themselves(resident: ResidentCrystals) -> None:
    rows = BATCHES[0]
    atoms = int(resident.sizes[0, rows].sum())
    filled = resident.batch(torch.from_numpy(rows).to(DEVICE), resident.capacity(BATCHES)).to("cpu")
    images = filled.images
    assert images is not None
    assert (images.ptr.diff()[atoms:] == 1).all()
    own = images.ptr[atoms:-1]
    assert (images.distance[own] == 0).all()
    assert torch.equal(images.source[own], torch.arange(atoms, filled.n_atoms))
    assert torch.equal(images.target[own], images.source[own])
    assert (images.pair_target.diff() >= 0).all()


def test_directions_are_gathered_too() -> None:
    batch = with_images(CrystalBatch.from_crystals(CRYSTALS), RADIUS, directions=True).to(torch.float32)
    directed = ResidentCrystals([batch], DEVICE)
    rows = BATCHES[0]
    model = Crystalformer(
        CrystalformerConfig(dim=16, heads=2, blocks=1, feedforward=16, radial_functions=4, frame="max")
    ).to(DEVICE)
    model.calibrate(batch.to(DEVICE))
    chosen = CrystalBatch.from_crystals([CRYSTALS[row] for row in rows])
    expected = model(with_images(chosen, RADIUS, directions=True).to(torch.float32).to(DEVICE))
    found = model(directed.batch(torch.from_numpy(rows).to(DEVICE), directed.capacity(BATCHES)))[: len(rows)]
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_predictions_and_gradients_do_not_see_the_filling(resident: ResidentCrystals, backend: str) -> None:
    rows = BATCHES[1]
    torch.manual_seed(0)
    model = Crystalformer(CrystalformerConfig(dim=16, heads=4, blocks=2, feedforward=32, radial_functions=8)).to(DEVICE)
    model.calibrate(packed(rows.tolist()).to(DEVICE))
    model.backend = backend  # type: ignore[assignment]
    answers = []
    for batch in (
        packed(rows.tolist()).to(DEVICE),
        resident.batch(torch.from_numpy(rows).to(DEVICE), resident.capacity(BATCHES)),
    ):
        y = model(batch)[: len(rows)]
        gradients = torch.autograd.grad(y.square().sum(), list(model.parameters()))
        answers.append([y.detach(), *gradients])
    for mine, other in zip(*answers, strict=True):
        assert torch.allclose(mine, other, atol=1e-5 * float(other.abs().max().clamp(min=1e-3)))


def test_what_does_not_fit_is_refused(resident: ResidentCrystals) -> None:
    capacity = resident.capacity(BATCHES)
    with pytest.raises(ConfigError, match="does not fit"):
        resident.check(np.arange(12).repeat(40), capacity)
    with pytest.raises(ConfigError, match="does not fit"):
        resident.check(BATCHES[0], Capacity(capacity.atoms, capacity.atoms, capacity.images))


def test_crystals_without_images_or_of_two_radii_are_refused() -> None:
    batch = packed([0, 1])
    with pytest.raises(ConfigError, match="need their images"):
        ResidentCrystals([replace(batch, images=None)], DEVICE)
    with pytest.raises(ConfigError, match="one radius"):
        ResidentCrystals([batch, with_images(batch, 5.0)], DEVICE)
    with pytest.raises(ConfigError, match="one radius"):
        ResidentCrystals([], DEVICE)
