"""Predictions in float32 do not change far from the origin: geometry follows float64 until it is rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from strategies import SYMMETRIC_CRYSTALS, random_crystals

from crystalformers import testing
from crystalformers.attention import Backend
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, build_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.testing import Transformation, assert_invariant, network_predictor

TOLERANCE = 2e-5
"""Largest change of a prediction in units of the spread, as in the tests of invariance in float32."""

CRYSTALS = [*random_crystals(7, seed=100, most=6), *(SYMMETRIC_CRYSTALS[name] for name in ("low", "perovskite"))]


def shifted(crystal: Crystal, cells: int, rng: np.random.Generator | None = None) -> Crystal:
    """All atoms that many cells away along each axis, or each atom to a side of its own."""
    side = 1 if rng is None else rng.integers(-1, 2, size=(len(crystal), 3))
    return Crystal(crystal.numbers, crystal.frac_coords + cells * side, crystal.lattice, crystal.name)


FAR = (
    Transformation("1000 cells away", lambda crystal, _: shifted(crystal, 1000)),
    Transformation("30 cells away", lambda crystal, _: shifted(crystal, 30)),
    Transformation("each atom 1000 cells away", lambda crystal, rng: shifted(crystal, 1000, rng)),
    Transformation("supercell 1000 cells away", lambda c, rng: shifted(testing.repeated(c, (2, 1, 1)), 1000, rng)),
    Transformation("other cell, 1000 away", lambda c, rng: shifted(testing.randomly_rebased(c, rng), 1000, rng)),
)


def network(backend: Backend, **settings: Any) -> Crystalformer:
    """A small model with random weights that follows directions and distances well."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 4, "blocks": 1, "feedforward": 16, "angular_functions": 8, "angular_width": 1.0}
    found = Crystalformer(CrystalformerConfig(**sizes, **settings))
    found.backend = backend
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name.endswith("encoding"):
                parameter.mul_(10)
            elif "query" in name or "key" in name:
                parameter.mul_(3)
    return found


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        *({"frame": frame} for frame in ("max", "static-local", "weighted-pca", "pca", "lattice")),
        {"space": "reciprocal", "radial_functions": 0, "reciprocal_sigma": 1.5},
        {"space": "dual"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "distances",
)
def test_a_prediction_does_not_follow_the_distance_from_the_origin(backend: Backend, settings: dict[str, Any]) -> None:
    predict = network_predictor(network(backend, **settings), 1e-6, torch.float32)
    print("\n" + testing.table(assert_invariant(predict, CRYSTALS, TOLERANCE, FAR)))


@pytest.mark.parametrize("frame", [None, "pca", "lattice"])
def test_the_reference_follows_float64_too(frame: str | None) -> None:
    crystals = [SYMMETRIC_CRYSTALS[name] for name in ("low", "rock salt")]
    predict = network_predictor(network("reference", frame=frame, radial_functions=8), 1e-2, torch.float32)
    assert_invariant(predict, crystals, TOLERANCE, FAR[:3])


def test_images_of_a_rounded_batch_are_those_of_the_crystals() -> None:
    crystals = [shifted(crystal, 1000) for crystal in CRYSTALS]
    exact = build_images(CrystalBatch.from_crystals(crystals), 4.0, directions=True).to(torch.float32)
    rounded = CrystalBatch.from_crystals(crystals, torch.float32)
    found = build_images(rounded, 4.0, directions=True)
    for images in (found, found.moved(rounded)):
        assert torch.equal(images.pair, exact.pair)
        torch.testing.assert_close(images.distance, exact.distance, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(images.vectors, exact.vectors, rtol=1e-6, atol=1e-6)
