"""Every setting of the model that attention follows, at two values, in every backend against the reference.

Both values are computed on one `Geometry`: what is cached for the first must not be taken for the second.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import pytest
import torch
from strategies import SYMMETRIC_CRYSTALS
from test_triton import DEVICE, needs_triton
from torch import Tensor

from crystalformers.attention import Backend, Geometry, RadialBasis
from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import CrystalformerConfig, InfiniteAttention

needs_library = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")

SIZES = {"dim": 8, "heads": 2, "blocks": 2, "radial_functions": 6, "angular_functions": 6}
BASE = CrystalformerConfig(**SIZES, radial_maximum=5.0, angular_width=1.5, frame="max")
RADIUS = 4.5
BLOCK = 1
"""Which block's attention is compared: `alternating` and `frame_blocks` tell it from the other."""


@dataclass(frozen=True)
class Case:
    """Two values of a setting, and what else must be set for them to make a difference."""

    values: tuple[Any, Any]
    others: dict[str, Any] = field(default_factory=dict)

    def configs(self, setting: str) -> tuple[CrystalformerConfig, CrystalformerConfig]:
        first, second = (replace(BASE, **self.others, **{setting: value}) for value in self.values)
        return first, second


RECIPROCAL = {"frame": None, "space": "dual"}
CASES = {
    "dim": Case((8, 12)),
    "heads": Case((2, 1)),
    "radial_functions": Case((6, 0)),
    "radial_maximum": Case((5.0, 3.0)),
    "radial_width": Case((1.0, 0.7)),
    "sigma": Case((1.4, 1.1)),
    "sigma_slope": Case((0.1, 0.3)),
    "sigma_floor": Case((0.5, 0.9), {"sigma_slope": 0.5}),
    "space": Case(("real", "dual")),
    "space, alternating": Case(("dual", "alternating"), {"frame": None}),
    "reciprocal_sigma": Case((2.2, 1.1), RECIPROCAL),
    "frame": Case((None, "max")),
    "frame, static": Case(("static-local", "weighted-pca")),
    "frame, of the crystal": Case(("lattice", "pca")),
    "frame_blocks": Case(((0,), (1,))),
    "angular_functions": Case((6, 9)),
    "angular_width": Case((1.5, 0.8)),
    "angular_width, static": Case((1.5, 0.8), {"frame": "static-local"}),
    "distance_coefficient": Case((1.0, 1.5)),
    "angle_coefficient": Case((1.0, 0.5)),
    "tie_width": Case((0.01, 2.0)),
    "tie_width, static-local": Case((0.01, 2.0), {"frame": "static-local"}),
    "tie_width, weighted-pca": Case((0.01, 0.8), {"frame": "weighted-pca"}),
    "tie_width, pca": Case((0.01, 0.8), {"frame": "pca"}),
    "tie_width, lattice": Case((0.01, 0.9), {"frame": "lattice"}),
}
"""By the name of the setting, up to a comma."""

OUTSIDE = {"blocks", "feedforward", "dropout", "element_dim", "n_targets"}
"""Settings of other layers."""


def geometry_of(config: CrystalformerConfig, radius: float, dtype: torch.dtype, device: str = "cpu") -> Geometry:
    crystals = [SYMMETRIC_CRYSTALS[name] for name in ("low", "chain")]
    batch = with_images(CrystalBatch.from_crystals(crystals), radius, directions=True)
    basis = RadialBasis(config.radial_functions, config.radial_maximum, config.radial_width)
    return Geometry(batch.to(dtype).to(device), basis)


def solve(
    config: CrystalformerConfig, geometry: Geometry, backend: Backend, others: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The output of a layer with random weights and its gradients, of `others` too, on the CPU in float64."""
    like = geometry.batch.positions
    torch.manual_seed(0)
    layer = InfiniteAttention(config, BLOCK)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    layer = layer.to(like)
    x = torch.randn(len(like), config.dim, generator=generator).to(like).requires_grad_()
    cotangent = torch.randn(x.shape, generator=generator).to(like)
    y = layer(x, geometry, backend)
    leaves = {"x": x, **dict(layer.named_parameters()), **(others or {})}
    gradients = torch.autograd.grad(y, list(leaves.values()), cotangent, allow_unused=True)
    found = {"y": y, **dict(zip(leaves, gradients, strict=True))}
    return {name: tensor.detach().cpu().double() for name, tensor in found.items() if tensor is not None}


@cache
def reference(config: CrystalformerConfig, radius: float) -> dict[str, Tensor]:
    return solve(config, geometry_of(config, radius, torch.float64), "reference")


def error(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest of all tensors, relative to the largest number of each, or to 1."""
    assert ours.keys() == exact.keys()
    return max(float(((ours[name] - exact[name]) / exact[name].abs().max().clamp(min=1)).abs().max()) for name in exact)


def bound(backend: Backend, config: CrystalformerConfig) -> float:
    """Rounding; and with principal axes the reference's own error, for it integrates over directions numerically."""
    if backend != "torch":
        return 5e-5
    return 1e-6 if config.frame in ("pca", "weighted-pca") else 1e-10


def check(
    backend: Backend, configs: tuple[CrystalformerConfig, ...], radii: tuple[float, ...], device: str = "cpu"
) -> None:
    """One after the other, on one geometry where the settings allow it."""
    geometries: dict[tuple[object, ...], Geometry] = {}
    for config, radius in zip(configs, radii, strict=True):
        key = (radius, config.radial_functions, config.radial_maximum, config.radial_width)
        if key not in geometries:
            dtype = torch.float64 if backend == "torch" else torch.float32
            geometries[key] = geometry_of(config, radius, dtype, device)
        found = solve(config, geometries[key], backend)
        assert error(found, reference(config, radius)) < bound(backend, config), (config, radius)


def test_every_setting_is_compared() -> None:
    compared = {name.partition(",")[0] for name in CASES}
    assert compared | OUTSIDE == {setting.name for setting in fields(CrystalformerConfig)}
    assert not compared & OUTSIDE


@pytest.mark.parametrize("name", CASES)
def test_both_values_differ(name: str) -> None:
    """By far more than the backends may."""
    first, second = (reference(config, RADIUS)["y"] for config in CASES[name].configs(name.partition(",")[0]))
    if first.shape == second.shape:
        assert (first - second).abs().max() > 1e-3 * first.abs().max()


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_library)])
@pytest.mark.parametrize("name", CASES)
def test_a_setting_has_its_effect(name: str, backend: Backend) -> None:
    check(backend, CASES[name].configs(name.partition(",")[0]), (RADIUS, RADIUS))


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_library)])
def test_the_radius_has_its_effect(backend: Backend) -> None:
    check(backend, (BASE, BASE), (RADIUS, 3.0))
    difference = reference(BASE, RADIUS)["y"] - reference(BASE, 3.0)["y"]
    assert difference.abs().max() > 1e-3


@needs_triton
@pytest.mark.parametrize("name", ["angular_width, static", "tie_width", "tie_width, static-local"])
def test_a_setting_has_its_effect_in_triton(name: str) -> None:
    check("triton", CASES[name].configs(name.partition(",")[0]), (3.0, 3.0), DEVICE)
