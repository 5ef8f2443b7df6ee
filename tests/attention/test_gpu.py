"""A CUDA device computes what the CPU computes: images, attention, predictions and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from strategies import KINDS, make_crystal, random_crystals
from torch import Tensor

from benchmarks.gpu.resident import ResidentCrystals
from crystalformers.attention import Backend, Geometry, RadialBasis, infinite_attention
from crystalformers.attention.backends.triton import operators
from crystalformers.images import CrystalBatch, Images, build_images, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: no CUDA device"),
]

DEVICE = "cuda"
RADIUS = 6.0
HEADS, WIDTH, COUNT = 3, 4, 10
EDGE = 1e-9
"""An image this close to the radius may be in or out by rounding (Angstrom); its weight is zero."""


def in_fixed_order(images: Images) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows (i, j, n1, n2, n3), distances and vectors; images at equal distances have no order of their own."""
    images = images.to("cpu")
    assert images.shift is not None
    assert images.vectors is not None
    rows = torch.column_stack([images.target, images.source, images.shift]).numpy().astype(np.int64)
    distance, vectors = images.distance.numpy(), images.vectors.numpy()
    kept = np.flatnonzero(distance < images.radius - EDGE)
    order = kept[np.lexsort(rows[kept].T)]
    return rows[order], distance[order], vectors[order]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [2.5, 8.4])
def test_images_built_on_the_gpu_are_those_of_the_cpu(kind: str, radius: float) -> None:
    batch = CrystalBatch.from_crystals([make_crystal(kind, n_atoms, seed=n_atoms) for n_atoms in (1, 3, 7)])
    there, here = (build_images(batch.to(device), radius, directions=True) for device in (DEVICE, "cpu"))
    assert there.distance.device.type == torch.device(DEVICE).type
    steps = there.distance.diff()
    steps[there.ptr[1:-1] - 1] = 0
    assert (steps >= -1e-12).all(), "distances ascend within an atom"
    rows, distance, vectors = in_fixed_order(there)
    expected_rows, expected_distance, expected_vectors = in_fixed_order(here)
    assert np.array_equal(rows, expected_rows)
    assert np.allclose(distance, expected_distance, atol=1e-10)
    assert np.allclose(vectors, expected_vectors, atol=1e-10)


def attend(
    batch: CrystalBatch, inputs: list[Tensor], backend: Backend, device: str, dtype: torch.dtype
) -> list[Tensor]:
    """The output of attention and its gradients with respect to all inputs, positions and lattice, on the CPU."""
    leaves = [t.to(device, dtype, copy=True).requires_grad_() for t in (*inputs, batch.positions, batch.lattice)]
    *tensors, positions, lattice = leaves
    moved = replace(batch.to(device).to(dtype), positions=positions, lattice=lattice)
    assert moved.images is not None
    moved = replace(moved, images=moved.images.moved(moved))
    y = infinite_attention(*tensors, Geometry(moved, RadialBasis(COUNT, RADIUS)), backend)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(device, dtype)
    gradients = torch.autograd.grad((y * weight).sum(), leaves)
    return [t.detach().cpu().double() for t in (y, *gradients)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)])
def test_attention_and_every_gradient_agree_with_the_reference(dtype: torch.dtype, tolerance: float) -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(7, most=4)), RADIUS, directions=True)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, batch.n_atoms, HEADS, WIDTH, generator=generator, dtype=torch.float64)
    inverse_variance = torch.rand(batch.n_atoms, HEADS, generator=generator, dtype=torch.float64) + 0.3
    encoding = torch.randn(HEADS, WIDTH, COUNT, generator=generator, dtype=torch.float64)
    inputs = [q, k, v, inverse_variance, encoding]
    expected = attend(batch, inputs, "reference", "cpu", torch.float64)
    actual = attend(batch, inputs, "torch", DEVICE, dtype)
    for mine, theirs in zip(actual, expected, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


def calibrated_model(batch: CrystalBatch, **settings: Any) -> Crystalformer:
    torch.manual_seed(0)
    sizes = {"dim": 32, "heads": 4, "blocks": 3, "feedforward": 64, "radial_functions": 16}
    model = Crystalformer(CrystalformerConfig(**(sizes | settings)))
    model = model.to(batch.positions.dtype)
    model.calibrate(batch)
    return model


def test_predictions_in_single_precision_are_those_of_the_cpu() -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(21)), 8.4).to(torch.float32)
    model = calibrated_model(batch)
    with torch.inference_mode():
        expected = model(batch)
        actual = model.to(DEVICE)(batch.to(DEVICE)).cpu()
    assert (actual - expected).abs().max() <= 2e-5 * expected.std()


def test_a_training_step_follows_that_of_the_cpu() -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(14)), 8.4)
    weights = []
    for device in ("cpu", DEVICE):
        model = calibrated_model(batch).to(device)
        # Plain descent: Adam's first step is the sign of the gradient, which is no continuous function of it.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(batch.to(device)).square().mean().backward()
        optimizer.step()
        weights.append([parameter.detach().cpu() for parameter in model.parameters()])
    for expected, actual in zip(*weights, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_bfloat16_rounds_predictions_and_nothing_more() -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(21)), 8.4).to(torch.float32)
    model = calibrated_model(batch).to(DEVICE)
    with torch.inference_mode():
        exact = model(batch.to(DEVICE))
        with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
            rounded = model(batch.to(DEVICE))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() <= 0.05 * exact.std()
    assert not torch.equal(rounded.float(), exact)


@pytest.mark.skipif(not operators.installed(), reason="NOT TESTED: Triton is not installed")
@pytest.mark.parametrize("frame", [None, "max"])
def test_forward_and_backward_are_captured_in_one_graph(frame: str | None) -> None:
    """From row numbers to gradients nothing waits for the device, ties of frames included; replays follow the rows."""
    crystals = random_crystals(8)
    packed = with_images(CrystalBatch.from_crystals(crystals), 6.0, directions=True).to(torch.float32)
    resident = ResidentCrystals([packed], DEVICE)
    choices = [np.array([0, 3, 5]), np.array([7, 1, 2])]
    capacity = resident.capacity(choices)
    model = calibrated_model(packed, frame=frame).to(DEVICE)
    model.backend = "triton"
    rows, parameters = torch.tensor([4, 5, 6], device=DEVICE), list(model.parameters())

    def step() -> tuple[Tensor, ...]:
        y = model(resident.batch(rows, capacity))[:-1]
        return y, *torch.autograd.grad(y.square().sum(), parameters)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for chosen in choices:
        rows.copy_(torch.from_numpy(chosen))
        graph.replay()
        for mine, theirs in zip(captured, step(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
