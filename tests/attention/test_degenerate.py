"""Atoms on one spot, settings beyond what a kernel can do, numbers that are none: the same in all backends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from strategies import SYMMETRIC_CRYSTALS, random_crystals
from test_triton import DEVICE, needs_triton
from torch import Tensor

from crystalformers.attention import (
    AngularBasis,
    AngularEncoding,
    Geometry,
    RadialBasis,
    choose_backend,
    infinite_attention,
)
from crystalformers.attention.backends.cpu.images import WIDTHS, radial_polynomials
from crystalformers.attention.frames import symmetry
from crystalformers.attention.frames.crystal import lattice_frames, pca_axes
from crystalformers.attention.frames.encoding import LEAST_DEVIATION
from crystalformers.attention.frames.local import TIE_WIDTH, FrameMethod, principal_axes
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, build_images, with_images
from crystalformers.images.batch import ONE_SPOT
from crystalformers.models.crystalformer import CrystalformerConfig

needs_library = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")

FRAMES = (None, *get_args(FrameMethod))


def on_one_spot(apart: float, cells: int, lattice: float) -> Crystal:
    """Two atoms that far apart, Å, but for a translation, and a third near by."""
    frac = np.array([[0.1, 0.1, 0.1], [0.1 + cells, 0.1 + apart / lattice, 0.1], [0.5, 0.4, 0.3]])
    return Crystal(np.array([6, 8, 7]), frac, lattice * np.eye(3))


def encode(batch: CrystalBatch, frame: FrameMethod | None, backend: str, device: str = "cpu") -> list[Tensor]:
    """The output and every gradient, in float64."""
    generator = torch.Generator().manual_seed(0)
    atoms, like = batch.n_atoms, batch.positions
    shapes = [(atoms, 2, 4)] * 3 + [(2, 4, 5), (3, 2, 4, 6)]
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).to(like).requires_grad_() for s in shapes]
    q, k, v, W, W_angle = leaves
    angular = None if frame is None else AngularEncoding(W_angle, AngularBasis(6, 1.0), frame)
    geometry = Geometry(batch, RadialBasis(5, 5.0))
    y = infinite_attention(q, k, v, torch.ones(atoms, 2).to(like), W, geometry, backend, angular=angular)
    gradients = torch.autograd.grad(y.square().sum(), leaves if frame else leaves[:-1])
    return [t.detach().cpu().double() for t in (y, *gradients)]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("crystal", [(0.0, 0, 3.3), (0.0, 1000, 3.3), (ONE_SPOT / 2, 0, 3.3), (0.0, 0, 60.0)], ids=str)
def test_atoms_on_one_spot_are_the_same_in_all_backends(
    frame: FrameMethod | None, crystal: tuple[float, int, float]
) -> None:
    batch = with_images(CrystalBatch.from_crystals([on_one_spot(*crystal)]), 3.0, directions=True)
    exact = encode(batch, frame, "torch")
    assert all(tensor.isfinite().all() for tensor in exact)
    reference = encode(batch, frame, "reference")
    single = [encode(batch.to(torch.float32), frame, name) for name in ("torch", *(["cpu"] if library() else []))]
    for found, tolerance in [(reference, 1e-6), *((found, 1e-5) for found in single)]:
        for ours, theirs in zip(found, exact, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@needs_triton
@pytest.mark.parametrize("frame", [None, "max"])
def test_atoms_on_one_spot_are_the_same_in_triton(frame: FrameMethod | None) -> None:
    batch = with_images(CrystalBatch.from_crystals([on_one_spot(0.0, 0, 3.3)]), 2.5, directions=True)
    exact, found = encode(batch, frame, "torch"), encode(batch.to(torch.float32).to(DEVICE), frame, "triton")
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_both_enumerations_see_one_spot(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = CrystalBatch.from_crystals([on_one_spot(ONE_SPOT / 2, 1000, 3.3), on_one_spot(2 * ONE_SPOT, 0, 3.3)])
    compiled = build_images(batch, 3.0, directions=True)
    monkeypatch.setattr("crystalformers.images.build.library", lambda: None)
    plain = build_images(batch, 3.0, directions=True)
    for images in (compiled, plain, compiled.moved(batch)):
        counts = [(images.distance[images.target == atom] == 0).sum().item() for atom in range(6)]
        assert counts == [2, 2, 1, 1, 1, 1]
        assert images.vectors is not None
        assert (images.vectors[images.distance == 0] == 0).all()


# --- what the kernel leaves to PyTorch ---


@needs_library
@pytest.mark.parametrize("width", [1e-9, 0.05, 0.1, 100.0, 1e6])
def test_radial_functions_that_the_kernel_cannot_represent(width: float) -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(2)), 4.0).to(torch.float32)
    geometry = Geometry(batch, RadialBasis(8, 4.0, width))
    q = torch.zeros(batch.n_atoms, 1, 2)
    assert choose_backend(q, geometry) == "torch"
    with pytest.raises(ConfigError, match="spacings wide"):
        infinite_attention(q, q, q, q[..., 0] + 1, torch.zeros(1, 2, 8), geometry, "cpu")


@pytest.mark.parametrize("width", WIDTHS)
def test_radial_functions_at_the_limits_are_right(width: float) -> None:
    coefficients = radial_polynomials(width)
    u = torch.linspace(-1, 1, 201)
    half = coefficients.shape[1] // 2
    found = sum(c_K * u[:, None] ** power for power, c_K in enumerate(coefficients))
    place = (u[:, None].double() + 1) / 2 - torch.arange(1 - half, half + 1)
    torch.testing.assert_close(found.double(), torch.exp(-0.5 * (place / width) ** 2), rtol=0, atol=1e-6)


@needs_library
def test_images_in_disorder_are_left_to_pytorch() -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(2)), 4.0).to(torch.float32)
    assert batch.images is not None
    for distance in (batch.images.distance.flip(0), batch.images.distance + 0.1, 1.01 * batch.images.distance):
        geometry = Geometry(replace(batch, images=replace(batch.images, distance=distance)), RadialBasis(8, 4.0))
        q = torch.zeros(batch.n_atoms, 1, 2)
        assert choose_backend(q, geometry) == "torch"
        with pytest.raises(ConfigError, match="in order"):
            infinite_attention(q, q, q, q[..., 0] + 1, torch.zeros(1, 2, 8), geometry, "cpu")


# --- what all refuse ---


@pytest.mark.parametrize("width", [1e-3, 0.0, -1.0, math.nan, math.inf])
def test_angular_functions_below_the_limit_are_refused(width: float) -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(1)), 3.0, directions=True).to(torch.float32)
    q = torch.zeros(batch.n_atoms, 1, 2)
    angular = AngularEncoding(torch.zeros(3, 1, 2, 64), AngularBasis(64, width), "max")
    with pytest.raises(ConfigError, match=f"standard deviation of {LEAST_DEVIATION} or more"):
        infinite_attention(q, q, q, q[..., 0] + 1, None, Geometry(batch, RadialBasis(8, 4.0)), angular=angular)


def test_a_model_of_such_functions_is_refused_and_one_without_frames_is_not() -> None:
    with pytest.raises(ConfigError, match=r"angular_width = 0.001 .* below the limit 0.01"):
        CrystalformerConfig(frame="max", angular_width=1e-3)
    CrystalformerConfig(angular_width=1e-3)


def test_means_over_a_plane_are_right_at_the_limit() -> None:
    basis = AngularBasis(21, LEAST_DEVIATION / 0.1)
    cosine = torch.linspace(-1, 1, 41, dtype=torch.float64)
    phi = (torch.arange(5000, dtype=torch.float64) + 0.5) * math.pi / 5000
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    expected = torch.stack([basis(s * torch.cos(phi)).mean(0) for s in sine])
    torch.testing.assert_close(basis.circle(cosine), expected, rtol=0, atol=2e-7)


# --- numbers that are none, and many ---


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_second_moment_that_is_not_finite_has_axes_of_nan(value: float) -> None:
    moments = torch.stack([torch.diag(torch.tensor([1.0, 2.0, 4.0])), torch.full((3, 3), value)]).double()
    found = principal_axes(moments, TIE_WIDTH)
    assert found.axes[1].isnan().all()
    torch.testing.assert_close(found.axes[0], principal_axes(moments[:1], TIE_WIDTH).axes[0])


def test_pairs_are_compared_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = [*random_crystals(4), SYMMETRIC_CRYSTALS["perovskite"]]
    batch = CrystalBatch.from_crystals(crystals)
    whole = pca_axes(batch, TIE_WIDTH), lattice_frames(batch, TIE_WIDTH)
    monkeypatch.setattr(symmetry, "PAIRS_AT_A_TIME", 3)
    parts = pca_axes(batch, TIE_WIDTH), lattice_frames(batch, TIE_WIDTH)
    torch.testing.assert_close(parts[0].distinct, whole[0].distinct, rtol=0, atol=1e-9)
    torch.testing.assert_close(parts[1].axes, whole[1].axes, rtol=0, atol=1e-12)


def test_a_negative_variance_is_refused() -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(1)), 3.0).to(torch.float32)
    q = torch.zeros(batch.n_atoms, 1, 2)
    with pytest.raises(ConfigError, match="inverse_variance holds negative numbers"):
        infinite_attention(q, q, q, q[..., 0] - 1, None, Geometry(batch, RadialBasis(8, 4.0)))
