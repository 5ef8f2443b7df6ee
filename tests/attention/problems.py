"""Problems for the attention backends: crystals, random inputs, and how far an answer is from the exact one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from strategies import make_crystal, random_crystals
from torch import Tensor

from crystalformers.attention import Geometry, RadialBasis, infinite_attention
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, with_images

SIGMA_BOUND = 1.4 / math.sqrt(0.5)


@dataclass(frozen=True)
class Case:
    """Crystals and sizes of a problem; K = 0 leaves the value encoding out."""

    crystals: Sequence[Crystal]
    radius: float = 5.0
    heads: int = 3
    head_dim: int = 4
    radial: int = 5
    width: float = 1.0
    sigma: tuple[float, float] = (0.8, SIGMA_BOUND)


def grown(n_atoms: int) -> Crystal:
    rng = np.random.default_rng(n_atoms)
    cell = 2.4 * n_atoms ** (1 / 3) * np.eye(3)
    return Crystal(rng.integers(1, 99, size=n_atoms), rng.uniform(size=(n_atoms, 3)), cell)


CASES = {
    "one atom": Case([make_crystal("tiny")]),
    "ragged": Case(random_crystals(8)),
    "needle": Case([make_crystal("needle", 3)], radius=6.0),
    "sheared": Case([make_crystal("sheared", 3)]),
    "unwrapped": Case([make_crystal("unwrapped", 3)]),
    "left-handed": Case([make_crystal("left-handed", 3)]),
    "100 atoms beside one": Case([grown(100), make_crystal("tiny")], radius=3.5, heads=2, radial=3),
    "published sizes": Case([make_crystal("random", 3), make_crystal("symmetric")], 8.0, 8, 16, 64),
    "far beyond the widths": Case(
        [make_crystal("random", 3), make_crystal("symmetric")], 11.3, 8, 4, 16, sigma=(1.2, 1.4)
    ),
    "odd sizes": Case(random_crystals(3), 6.0, heads=11, head_dim=5, radial=17),
    "nine heads": Case(random_crystals(3), heads=9, head_dim=1, radial=1),
    "wide radial functions": Case(random_crystals(3), radial=20, width=2.7),
    "narrow radial functions": Case(random_crystals(3), radial=20, width=0.4),
    "widest decay": Case(random_crystals(3), sigma=(SIGMA_BOUND, SIGMA_BOUND)),
    "narrowest decay": Case(random_crystals(3), sigma=(0.05, 0.1)),
    "narrow decays beside wide ones": Case(random_crystals(3), 8.0, 8, radial=40, sigma=(0.05, SIGMA_BOUND)),
    "simplified": Case(random_crystals(5), radial=0),
}


@dataclass(frozen=True)
class Problem:
    """Tensors of a case: the inputs by name, the geometry, and what the output's gradient is."""

    inputs: dict[str, Tensor]
    geometry: Geometry
    cotangent: Tensor

    def to(self, dtype: torch.dtype) -> Problem:
        geometry = Geometry(self.geometry.batch.to(dtype), self.geometry.basis)
        inputs = {name: tensor.detach().to(dtype) for name, tensor in self.inputs.items()}
        return Problem(inputs, geometry, self.cotangent.to(dtype))

    def solve(self, backend: Any, *, rounded: bool = False) -> dict[str, Tensor]:
        """The output `y`, and the gradient of each input by its name."""
        inputs = {name: tensor.detach().clone().requires_grad_() for name, tensor in self.inputs.items()}
        y = attend(inputs, self.geometry, backend, rounded=rounded)
        grads = torch.autograd.grad(y, list(inputs.values()), self.cotangent)
        return {"y": y.detach()} | dict(zip(inputs, grads, strict=True))


def attend(inputs: dict[str, Tensor], geometry: Geometry, backend: Any, *, rounded: bool = False) -> Tensor:
    q, k, v, inverse_variance = (inputs[name] for name in ("q", "k", "v", "inverse_variance"))
    return infinite_attention(q, k, v, inverse_variance, inputs.get("W"), geometry, backend, rounded=rounded)


def problem(case: Case, seed: int = 0, scale: float = 1.0) -> Problem:
    """Random inputs that float32 holds exactly, so that all types see the same numbers."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    batch = with_images(CrystalBatch.from_crystals(case.crystals), case.radius)
    shape = (batch.n_atoms, case.heads, case.head_dim)
    low, high = case.sigma
    sigma = low + (high - low) * torch.rand(shape[:2], generator=generator).double()
    inputs = {"q": scale * normal(*shape), "k": scale * normal(*shape), "v": normal(*shape)}
    inputs["inverse_variance"] = (sigma**-2).float().double()
    if case.radial:
        inputs["W"] = normal(case.heads, case.head_dim, case.radial)
    return Problem(inputs, Geometry(batch, RadialBasis(case.radial, 14.0, case.width)), normal(*shape))


def relative(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each tensor relative to its largest number, or to 1: inputs are about 1, gradients may be 0."""
    assert ours.keys() == exact.keys()
    return {
        name: float((ours[name].double() - exact[name]).abs().max() / exact[name].abs().max().clamp(min=1))
        for name in exact
    }
