"""Frames and the angular value encoding: against the reference, under symmetry, at ties."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from strategies import SYMMETRIC_CRYSTALS as CRYSTALS
from torch import Tensor

from crystalformers.attention import AngularBasis, AngularEncoding, Geometry, RadialBasis, infinite_attention, published
from crystalformers.attention.frames import encoding
from crystalformers.attention.frames.crystal import lattice_frames, pca_axes
from crystalformers.attention.frames.local import TIE_WIDTH, FrameMethod, max_frames, principal_axes
from crystalformers.attention.frames.symmetry import translation_lattice
from crystalformers.attention.lattice import reduced_basis
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

METHODS = get_args(FrameMethod)


def encode(
    batch: CrystalBatch,
    method: FrameMethod,
    backend: str,
    seed: int = 0,
    width: float = 1.5,
    *,
    decays: float = 0.3,
    rounded: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Attention output and the gradients of its arguments, with weights that depend on the elements alone.

    The widths of the decay are 1.2 Angstrom and up to `decays` less or more.
    """
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(98, 3, 2, 3, generator=generator, dtype=torch.float64)
    W = 0.3 * torch.randn(2, 3, 16, generator=generator, dtype=torch.float64)
    W_angle = torch.randn(3, 2, 3, 16, generator=generator, dtype=torch.float64)
    q, k, v = table[batch.numbers - 1].unbind(1)
    inverse_variance = 1 / (1.2 + decays * torch.tanh(q[..., 0])) ** 2
    leaves = [t.to(batch.positions.dtype).requires_grad_() for t in (q, k, v, inverse_variance, W, W_angle)]
    q, k, v, inverse_variance, W, W_angle = leaves
    geometry = Geometry(batch, RadialBasis(16, 8.0))
    angular = AngularEncoding(W_angle, AngularBasis(16, width), method)
    y = infinite_attention(q, k, v, inverse_variance, W, geometry, backend, angular=angular, rounded=rounded)
    probe = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return y.detach(), list(torch.autograd.grad((y * probe).sum(), leaves))


def batch_of(*crystals: Crystal, radius: float = 6.0) -> CrystalBatch:
    return with_images(CrystalBatch.from_crystals(crystals), radius, directions=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "names", [("low", "rock salt"), ("alone", "chain"), ("hexagonal",), ("simple cubic",)], ids=str
)
def test_torch_agrees_with_reference(method: FrameMethod, names: tuple[str, ...]) -> None:
    batch = batch_of(*(CRYSTALS[name] for name in names), radius=4.5)
    expected, expected_gradients = encode(batch, method, "reference")
    found, gradients = encode(batch, method, "torch")
    # The reference integrates over directions numerically.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7 if "pca" in method else 1e-11)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 if "pca" in method else 1e-10)


@pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("decays", "tolerance"), [(0.3, 1e-5), (1.0, 2e-5)])
@pytest.mark.parametrize(
    "names", [("low", "rock salt"), ("alone", "chain"), ("hexagonal",), ("diamond", "bcc")], ids=str
)
def test_cpu_agrees_with_float64(method: FrameMethod, names: tuple[str, ...], decays: float, tolerance: float) -> None:
    batch = batch_of(*(CRYSTALS[name] for name in names))
    expected, expected_gradients = encode(batch, method, "torch", decays=decays)
    found, gradients = encode(batch.to(torch.float32), method, "cpu", decays=decays)
    for ours, theirs in zip([found, *gradients], [expected, *expected_gradients], strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours.double() / scale, theirs / scale, rtol=0, atol=tolerance)
    again, gradients_again = encode(batch.to(torch.float32), method, "cpu", decays=decays)
    assert torch.equal(found, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))


@pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("names", "radius"), [(tuple(CRYSTALS), 6.0), (("low", "perovskite"), 11.3)], ids=["near", "far"]
)
def test_cpu_is_as_precise_as_plain_float32(method: FrameMethod, names: tuple[str, ...], radius: float) -> None:
    """Root mean square errors over four draws and the crystals, of values and of every gradient: at most twice."""
    squares: dict[str, list[list[float]]] = {"cpu": [], "torch": []}
    for seed, name in itertools.product(range(4), names):
        batch = batch_of(CRYSTALS[name], radius=radius)
        exact, exact_gradients = encode(batch, method, "torch", seed, width=1.0)
        for backend, found in squares.items():
            y, gradients = encode(batch.to(torch.float32), method, backend, seed, width=1.0)
            pairs = zip([y, *gradients], [exact, *exact_gradients], strict=True)
            found.append(
                [((ours - theirs) / theirs.abs().max().clamp(min=1)).square().mean().item() for ours, theirs in pairs]
            )
    ours, plain = (np.sqrt(np.mean(found, axis=0)) for found in squares.values())
    factors = ours / np.maximum(plain, 0.2 * np.finfo(np.float32).eps)
    print(f"{method}, {radius} A: error over that of plain float32: {factors.round(1)}")
    assert factors.max() < 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CRYSTALS)
def test_values_do_not_depend_on_cell_order_or_orientation(method: FrameMethod, name: str) -> None:
    crystal = CRYSTALS[name]
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    order = rng.permutation(len(crystal))
    sheared = np.array([[1, 2, 0], [0, 1, 0], [-1, 3, 1]])
    twice = np.diag([2, 1, 1])
    expected = encode(batch_of(crystal), method, "torch")[0]
    moved = Crystal(
        crystal.numbers[order],
        crystal.frac_coords[order] + rng.integers(-2, 3, (len(crystal), 3)) + 0.123,
        crystal.lattice @ rotation,
    )
    found = encode(batch_of(CRYSTALS["low"], moved), method, "torch")[0][3:]
    torch.testing.assert_close(found, expected[order], rtol=0, atol=2e-9)
    skew = Crystal(crystal.numbers, crystal.frac_coords @ np.linalg.inv(sheared), sheared @ crystal.lattice)
    torch.testing.assert_close(encode(batch_of(skew), method, "torch")[0], expected, rtol=0, atol=2e-9)
    shifted = crystal.frac_coords + np.eye(3)[0]
    copies = np.concatenate([crystal.frac_coords, shifted]) @ np.linalg.inv(twice)
    double = Crystal(np.tile(crystal.numbers, 2), copies, twice @ crystal.lattice)
    found = encode(batch_of(double), method, "torch")[0]
    torch.testing.assert_close(found, expected.repeat(2, 1, 1), rtol=0, atol=2e-9)


def published_axes(crystals: list[Crystal], method: FrameMethod) -> Tensor:
    """Axes of one crystal after the other."""
    encoding = AngularEncoding(torch.zeros(3, 1, 1, 2), AngularBasis(2, 1.0), method)
    frames = (published.cell_frames(*map(torch.from_numpy, (c.positions, c.lattice)), encoding) for c in crystals)
    return torch.cat([found.axes.reshape(-1, 3, 3) for found in frames if found is not None])


def test_published_frames_are_those_of_the_cell_as_given() -> None:
    """The authors' PCA frame follows an atom moved to another image, and their lattice frame a supercell."""
    crystal = CRYSTALS["low"]
    moved = Crystal(crystal.numbers, crystal.frac_coords + np.eye(len(crystal), 3) * 2, crystal.lattice)
    batch = CrystalBatch.from_crystals([crystal, moved])
    here, there = pca_axes(batch, TIE_WIDTH).axes
    torch.testing.assert_close(here, there, rtol=0, atol=1e-9)
    axes = published_axes([crystal, moved], "pca")
    positions = torch.from_numpy(moved.positions - moved.positions.mean(0))
    expected = torch.linalg.eigh(positions.mT @ positions)[1].mT
    torch.testing.assert_close((axes[1] * expected).sum(-1).abs(), torch.ones(3, dtype=torch.float64))
    assert (axes[0] @ axes[1].mT).abs().diagonal().min() < 0.99
    shortest = int(np.linalg.norm(crystal.lattice, axis=1).argmin())
    times = np.where(np.arange(3) == shortest, 4, 1)
    copies = [(crystal.frac_coords + np.eye(3)[shortest] * k) / times for k in range(4)]
    long = Crystal(np.tile(crystal.numbers, 4), np.concatenate(copies), crystal.lattice * times[:, None])
    ours = lattice_frames(CrystalBatch.from_crystals([crystal, long]), TIE_WIDTH).axes
    assert (ours[0] - ours[-1]).abs().max() < 1e-9
    theirs = published_axes([crystal, long], "lattice")
    assert not (theirs[0] - theirs[-1]).abs().max() < 1e-9


@pytest.mark.parametrize("method", ["max", "static-local", "lattice"])
def test_mirror_images_are_told_apart(method: FrameMethod) -> None:
    crystal = CRYSTALS["low"]
    mirrored = Crystal(crystal.numbers, crystal.frac_coords, crystal.lattice * [1, 1, -1])
    original, mirror = (encode(batch_of(c), method, "torch")[0] for c in (crystal, mirrored))
    assert (original - mirror).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_repeated_runs_are_equal_to_the_bit(method: FrameMethod) -> None:
    runs = [encode(batch_of(CRYSTALS["fcc"], CRYSTALS["low"]), method, "torch") for _ in range(3)]
    for y, gradients in runs[1:]:
        assert torch.equal(y, runs[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, runs[0][1], strict=True))


def test_frames_are_orthonormal_and_right_handed() -> None:
    generator = torch.Generator().manual_seed(1)
    direction = torch.nn.functional.normalize(torch.randn(20, 30, 3, generator=generator, dtype=torch.float64), dim=-1)
    frames = max_frames(torch.randn(20, 30, generator=generator, dtype=torch.float64), direction, 0.5)
    assert len(frames.owner) > 20
    eye = torch.eye(3, dtype=torch.float64).expand(len(frames.owner), 3, 3)
    torch.testing.assert_close(frames.axes @ frames.axes.mT, eye)
    torch.testing.assert_close(torch.linalg.det(frames.axes), torch.ones(len(frames.owner), dtype=torch.float64))
    total = torch.zeros(20, dtype=torch.float64).index_add(0, frames.owner, frames.weight)
    torch.testing.assert_close(total, torch.ones(20, dtype=torch.float64))


def test_a_clear_winner_costs_one_frame() -> None:
    crystal = CRYSTALS["low"]
    batch = batch_of(crystal)
    geometry = Geometry(batch, RadialBasis(16, 8.0))
    direction, around = geometry.directions
    log_weight = (-geometry.images.distance.square()[geometry.slots[0]]).masked_fill(~around, -torch.inf)
    assert len(max_frames(log_weight, direction, 1e-6).owner) == len(crystal)


def test_max_frames_are_continuous_where_two_neighbours_change_rank() -> None:
    direction = torch.nn.functional.normalize(
        torch.tensor([[[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.1, 1]]]).double(), dim=-1
    )
    basis = AngularBasis(16, 1.5)

    def features(gap: float) -> Tensor:
        frames = max_frames(torch.tensor([[gap, 0.0, -1.0]]).double(), direction, 0.01)
        values = basis(direction[frames.owner] @ frames.axes.mT)
        return (frames.weight[:, None, None, None] * values).sum(0)

    gaps = np.linspace(-0.02, 0.02, 400)
    values = torch.stack([features(gap) for gap in gaps])
    steps = values.diff(dim=0).abs().amax((1, 2, 3))
    assert steps.max() < 0.05 * (values[-1] - values[0]).abs().max()


def test_angular_means_over_circle_and_sphere() -> None:
    basis = AngularBasis(16, 1.5)
    phi = torch.arange(4000, dtype=torch.float64) * 2 * torch.pi / 4000
    for sine in (0.0, 0.3, 1.0):
        mean = basis(sine * torch.cos(phi)).mean(0)
        torch.testing.assert_close(
            basis.circle(torch.tensor((1 - sine**2) ** 0.5, dtype=torch.float64)), mean, rtol=0, atol=1e-12
        )
    cosine = torch.linspace(-1, 1, 200001, dtype=torch.float64)
    mean = torch.trapezoid(basis(cosine), cosine, dim=0) / 2
    torch.testing.assert_close(basis.sphere(mean), mean, rtol=0, atol=1e-9)


def test_equal_eigenvalues_are_not_distinct() -> None:
    moments = torch.diag_embed(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [1.0, 2.0, 3.0]]))
    axes = principal_axes(moments, TIE_WIDTH)
    assert axes.distinct.tolist() == [[0, 0], [0, 1], [1, 1]]


def test_translation_lattice_finds_the_primitive_cell() -> None:
    diamond = CRYSTALS["diamond"]
    conventional = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    shifts = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    frac = (diamond.frac_coords[:, None] + shifts).reshape(-1, 3) @ np.linalg.inv(conventional)
    tensors = [torch.from_numpy(a) for a in (np.repeat(diamond.numbers, 4), frac, conventional @ diamond.lattice)]
    basis = translation_lattice(*tensors)
    assert abs(float(torch.linalg.det(basis))) == pytest.approx(diamond.volume)
    expected = reduced_basis(torch.from_numpy(diamond.lattice)[None])[0].norm(dim=1)
    torch.testing.assert_close(basis.norm(dim=1), expected)


def test_lattice_frames_of_a_cube_are_its_rotations() -> None:
    frames = lattice_frames(CrystalBatch.from_crystals([CRYSTALS["simple cubic"]]), TIE_WIDTH)
    assert len(frames.weight) == 24
    torch.testing.assert_close(frames.weight, torch.full((24,), 1 / 24, dtype=torch.float64))


def test_frames_of_a_cube_share_three_lines() -> None:
    batch = CrystalBatch.from_crystals([CRYSTALS["simple cubic"], CRYSTALS["low"]], torch.float64)
    frames = lattice_frames(batch, TIE_WIDTH)
    axes, owner, share, reverse = frames.distinct_axes()
    assert torch.bincount(owner).tolist() == [3, 3]
    squares = torch.zeros(2, 3, 3, dtype=torch.float64)
    along = squares.index_add(0, owner, (share - reverse).unsqueeze(2) * axes.unsqueeze(1))
    torch.testing.assert_close(along, squares.index_add(0, frames.owner, frames.weight[:, None, None] * frames.axes))
    torch.testing.assert_close((share + reverse).sum(0), torch.full((3,), 2.0, dtype=torch.float64))


def test_model_with_frames_has_the_published_size() -> None:
    sizes = {}
    for name, settings in {"default": {}, "lightweight": {"angular_functions": 16, "angular_width": 1.0}}.items():
        model = Crystalformer(CrystalformerConfig(frame="max", **settings))
        sizes[name] = sum(p.numel() for p in model.parameters()) + 3 * model.config.blocks
    assert sizes == {"default": 951_821, "lightweight": 878_093}


def test_frames_in_some_blocks_and_beside_reciprocal_heads() -> None:
    batch = batch_of(CRYSTALS["low"], CRYSTALS["rock salt"])
    some = Crystalformer(CrystalformerConfig(dim=16, heads=2, blocks=3, frame="max", frame_blocks=(0, 2)))
    assert [block.attention.angular_encoding is not None for block in some.blocks] == [True, False, True]
    dual = Crystalformer(CrystalformerConfig(dim=16, heads=4, blocks=2, frame="max", space="dual"))
    assert dual.blocks[0].attention.angular_encoding.shape[1] == 2
    for model in (some, dual):
        model.double()
        prediction = model(batch)
        assert prediction.isfinite().all()
        prediction.sum().backward()
        assert all(p.grad is not None for p in model.blocks.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frame": "max", "frame_blocks": (4,)}, "blocks from 0 to 3"),
        ({"frame_blocks": (0,)}, "needs a frame"),
        ({"frame": "max", "space": "reciprocal"}, "real space"),
        ({"frame": "maximum"}, "is not one of"),
    ],
)
def test_frames_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CrystalformerConfig(**settings)


def test_forces_follow_a_prediction() -> None:
    """What is cached while predicting must not be an inference tensor: gradients of positions pass through it."""
    encoding._circle_series.cache_clear()
    basis = AngularBasis(16, 1.5)
    with torch.inference_mode():
        basis.circle(torch.zeros(1, dtype=torch.float64))
    cosine = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis.circle, cosine)
