"""The kernels over degenerate inputs of every kind, forward and backward: what `benchmarks/sanitize.sh` watches.

Without the sanitiser these are quick checks that nothing is lost: all results are finite.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from strategies import KINDS, make_crystal, random_crystals

from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

pytestmark = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")


def large(n_atoms: int) -> Crystal:
    """A cell of random atoms that is searched by bins."""
    rng = np.random.default_rng(n_atoms)
    lattice = np.array([[1.0, 0, 0], [0.3, 1.1, 0], [-0.2, 0.4, 0.9]]) * (n_atoms / 0.05) ** (1 / 3)
    return Crystal(rng.integers(1, 99, size=n_atoms), rng.uniform(-1, 2, size=(n_atoms, 3)), lattice)


BATCHES = {
    **{kind: [make_crystal(kind, atoms, seed=atoms) for atoms in (1, 2, 5)] for kind in KINDS},
    "mixed": [make_crystal("tiny"), large(300), make_crystal("needle"), *random_crystals(3)],
    "one atom": [make_crystal("symmetric", 1)],
    "lonely atom": [Crystal(np.array([2]), np.zeros((1, 3)), 60 * np.eye(3))],
    "bins": [large(700)],
    "one spot": [Crystal(np.array([6, 8, 7]), np.array([[0.1] * 3, [0.1] * 3, [0.5, 0.4, 0.3]]), 3.3 * np.eye(3))],
    "nothing but one spot": [Crystal(np.array([6, 8]), np.full((2, 3), 0.1), 60 * np.eye(3))],
    "far away": [Crystal(np.array([6, 8]), np.array([[1e8, 0.1, -1e8], [0.5, 1e8, 0.3]]), 4.0 * np.eye(3))],
}
FRAMES = (None, "max", "weighted-pca", "static-local", "pca", "lattice")


@pytest.mark.parametrize("radial_functions", [0, 1, 7, 64])
@pytest.mark.parametrize("heads", [1, 3, 8, 9])
def test_shapes_of_the_model(heads: int, radial_functions: int) -> None:
    check("mixed", CrystalformerConfig(heads=heads, dim=4 * heads, radial_functions=radial_functions))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", BATCHES)
def test_crystals_and_frames(name: str, frame: str | None) -> None:
    check(name, CrystalformerConfig(heads=2, dim=8, radial_functions=16, frame=frame))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1e-3, 40.0])
@pytest.mark.parametrize("frame", [None, "max"])
def test_extreme_features(frame: str | None, width: float) -> None:
    """Logits that all but vanish, and such that one image has all the weight."""
    check("mixed", CrystalformerConfig(heads=2, dim=8, frame=frame), width)  # type: ignore[arg-type]


def check(name: str, config: CrystalformerConfig, scale: float = 1.0) -> None:
    """One step of a small model with random weights."""
    torch.manual_seed(0)
    model = Crystalformer(CrystalformerConfig(**{**vars(config), "blocks": 1, "feedforward": 8}))
    model.backend = "cpu"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
    batch = with_images(CrystalBatch.from_crystals(BATCHES[name]), 5.0, directions=model.needs_directions)
    predicted = model(batch.to(torch.float32))
    gradients = torch.autograd.grad(predicted.sum(), list(model.parameters()), allow_unused=True)
    assert predicted.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
