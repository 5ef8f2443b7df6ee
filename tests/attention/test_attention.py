"""Every attention backend against the reference: values, every gradient, precision, repeatability."""

from __future__ import annotations

import math
import platform
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CASES, SIGMA_BOUND, Case, attend, grown, problem, relative
from strategies import crystals, make_crystal, random_crystals
from torch import Tensor

from crystalformers.attention import Geometry, RadialBasis, infinite_attention
from crystalformers.attention.backends.cpu import backend as cpu_backend
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, build_images, radius_for, with_images

needs_library = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")


@pytest.fixture(scope="module")
def exact() -> Any:
    """The reference's answer to each case in float64, computed once."""
    answers: dict[str, dict[str, Tensor]] = {}

    def answer(name: str) -> dict[str, Tensor]:
        if name not in answers:
            answers[name] = problem(CASES[name]).solve("reference")
        return answers[name]

    return answer


@pytest.mark.parametrize("name", CASES)
def test_torch_is_the_reference(name: str, exact: Any) -> None:
    errors = relative(problem(CASES[name]).solve("torch"), exact(name))
    assert max(errors.values()) < 1e-11, errors


@needs_library
@pytest.mark.parametrize("name", CASES)
def test_cpu_is_the_reference_to_float32(name: str, exact: Any) -> None:
    errors = relative(problem(CASES[name]).to(torch.float32).solve("cpu"), exact(name))
    assert max(errors.values()) < 1e-5, errors


def test_300_atoms_beside_one() -> None:
    """Values against the reference; gradients, which the reference is too slow for, against float64 PyTorch."""
    whole = problem(Case([grown(300), make_crystal("tiny")], radius=3.5, heads=2, radial=3))
    answer = whole.solve("torch")
    with torch.no_grad():
        assert torch.allclose(attend(whole.inputs, whole.geometry, "reference"), answer["y"], atol=1e-11)
    if library() is not None:
        errors = relative(whole.to(torch.float32).solve("cpu"), answer)
        assert max(errors.values()) < 1e-5, errors


PRECISION_FACTOR = 2
"""How many times the error of plain float32 the fused kernel may make in a value or gradient; measured: up to 1.8."""


@needs_library
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("100")])
def test_cpu_is_about_as_precise_as_plain_float32(name: str) -> None:
    """Root mean square errors over four draws; below a fifth of an ulp (zero gradients) all counts as equal."""
    squares: dict[str, dict[str, list[float]]] = {"cpu": {}, "torch": {}}
    for seed in range(4):
        whole = problem(CASES[name], seed)
        answer, single = whole.solve("torch"), whole.to(torch.float32)
        for backend, found in squares.items():
            for tensor, value in single.solve(backend).items():
                error = (value.double() - answer[tensor]) / answer[tensor].abs().max().clamp(min=1)
                found.setdefault(tensor, []).append(error.square().mean().item())
    rms = {b: {tensor: math.sqrt(np.mean(values)) for tensor, values in found.items()} for b, found in squares.items()}
    floor = 0.2 * torch.finfo(torch.float32).eps
    factors = {tensor: error / max(rms["torch"][tensor], floor) for tensor, error in rms["cpu"].items()}
    print(f"{name}: error over that of plain float32: " + ", ".join(f"{t} {f:.1f}" for t, f in factors.items()))
    assert max(factors.values()) < PRECISION_FACTOR, factors


def test_no_value_encoding_is_an_encoding_of_zero() -> None:
    whole = problem(CASES["ragged"])
    zero = replace(whole, inputs=whole.inputs | {"W": torch.zeros_like(whole.inputs["W"])})
    inputs = {name: tensor for name, tensor in whole.inputs.items() if name != "W"}
    assert torch.allclose(zero.solve("torch")["y"], attend(inputs, whole.geometry, "torch"), atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(
    crystal=crystals(most=3),
    heads=st.integers(1, 9),
    head_dim=st.integers(1, 5),
    radial=st.integers(0, 9),
    width=st.floats(0.5, 3.0),
    seed=st.integers(0, 100),
)
def test_any_problem(crystal: Crystal, heads: int, head_dim: int, radial: int, width: float, seed: int) -> None:
    random = problem(Case([crystal], 4.0, heads, head_dim, radial, width), seed)
    answer = random.solve("reference")
    errors = relative(random.solve("torch"), answer)
    assert max(errors.values()) < 1e-9, errors
    if library() is not None:
        y = random.to(torch.float32).solve("cpu")["y"].double()
        assert (y - answer["y"]).abs().max() < 1e-5 * (1 + answer["y"].abs().max())


# --- gradients, positions and lattice included ---


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("radial", [3, 0])
def test_gradients_are_those_of_finite_differences(backend: str, radial: int) -> None:
    case = Case([make_crystal("random", 2, seed=4)], 3.5, 2, 2, radial)
    whole = problem(case, scale=0.5)
    batch = whole.geometry.batch
    images = build_images(batch, case.radius, directions=True)

    def function(positions: Tensor, lattice: Tensor, *tensors: Tensor) -> Tensor:
        moved = replace(batch, positions=positions, lattice=lattice)
        moved = replace(moved, images=images.moved(moved))
        return attend(dict(zip(whole.inputs, tensors, strict=True)), Geometry(moved, whole.geometry.basis), backend)

    arguments = [t.detach().clone().requires_grad_() for t in (batch.positions, batch.lattice, *whole.inputs.values())]
    assert torch.autograd.gradcheck(function, arguments)


def test_auto_gives_gradients_of_positions() -> None:
    """Also in float32 on the CPU, where the fused kernel has none."""
    whole = problem(CASES["ragged"]).to(torch.float32)
    batch = whole.geometry.batch
    images = build_images(batch, 5.0, directions=True)
    moved = replace(batch, positions=batch.positions.clone().requires_grad_())
    moved = replace(moved, images=images.moved(moved))
    y = attend(whole.inputs, Geometry(moved, whole.geometry.basis), "auto")
    (grad,) = torch.autograd.grad(y.sum(), moved.positions)
    assert grad.isfinite().all()
    assert grad.abs().max() > 1e-3


# --- bits ---


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@needs_library
@pytest.mark.parametrize("threads", [1, 2])
def test_fifty_repeats_give_the_same_bits(threads: int) -> None:
    single, before = problem(CASES["ragged"]).to(torch.float32), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first = single.solve("cpu")
        assert all(same_bits(single.solve("cpu"), first) for _ in range(50))
    finally:
        torch.set_num_threads(before)


@needs_library
@pytest.mark.parametrize("name", ["ragged", "100 atoms beside one", "odd sizes"])
def test_threads_do_not_change_a_bit(name: str) -> None:
    """Of what the kernel computes; PyTorch's own product with W^E may round differently."""
    case = replace(CASES[name], radial=0)
    single, before, answers = problem(case).to(torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            answers.append(single.solve("cpu"))
    finally:
        torch.set_num_threads(before)
    assert same_bits(answers[1], answers[0])
    assert same_bits(answers[2], answers[0])


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_library)])
def test_batch_mates_do_not_matter(backend: str) -> None:
    given_crystals = random_crystals(7)
    whole = problem(Case(given_crystals)).to(torch.float32)
    together, start = attend(whole.inputs, whole.geometry, backend), 0
    for crystal in given_crystals:
        atoms = slice(start, start := start + len(crystal))
        alone = with_images(CrystalBatch.from_crystals([crystal]), 5.0).to(torch.float32)
        inputs = {name: t if name == "W" else t[atoms] for name, t in whole.inputs.items()}
        y = attend(inputs, Geometry(alone, whole.geometry.basis), backend)
        assert torch.allclose(y, together[atoms], atol=1e-5)


# --- denormal numbers ---


@needs_library
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_computes_no_denormal_numbers_and_leaves_them_to_others(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An x86 processor takes many times as long for them; elsewhere there may be some."""
    sums, original = [], cpu_backend._image_sum

    def recorded(*inputs: Any) -> tuple[Tensor, ...]:
        found = original(*inputs)
        sums.append(found[1])
        return found

    monkeypatch.setattr(cpu_backend, "_image_sum", recorded)
    tiny, before = torch.finfo(torch.float32).tiny, torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        problem(CASES["narrow decays beside wide ones"]).to(torch.float32).solve("cpu")
        assert (torch.full((10**6,), tiny) * 0.5 > 0).all()
    finally:
        torch.set_num_threads(before)
    assert (sums[0].abs() < 1e-30).any()
    if platform.machine() in ("x86_64", "AMD64"):
        assert not ((sums[0] != 0) & (sums[0].abs() < tiny)).any()


# --- extreme scores ---


EVERY_BACKEND_AND_TYPE = [
    *[(backend, dtype) for backend in ("reference", "torch") for dtype in (torch.float32, torch.float64)],
    pytest.param("cpu", torch.float32, marks=needs_library),
]


@pytest.mark.parametrize(("backend", "dtype"), EVERY_BACKEND_AND_TYPE)
def test_extreme_scores_give_numbers(backend: str, dtype: torch.dtype) -> None:
    case = CASES["ragged"]
    whole = problem(case, scale=14.0)
    score = torch.einsum("ihd,jhd->ijh", whole.inputs["q"], whole.inputs["k"]) / math.sqrt(case.head_dim)
    assert score.abs().max() > 200
    exact_answer, answer = whole.solve("reference"), whole.to(dtype).solve(backend)
    assert all(tensor.isfinite().all() for tensor in answer.values())
    assert torch.allclose(answer["y"].double(), exact_answer["y"], atol=2e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize(("backend", "dtype"), EVERY_BACKEND_AND_TYPE)
@pytest.mark.parametrize("score", [60.0, 200.0])
def test_an_image_on_the_very_edge_weighs_nothing_whatever_its_score(
    backend: str, score: float, dtype: torch.dtype
) -> None:
    """Its envelope is zero; were it allowed to set the maximum of the softmax, all else would underflow beside it."""
    # Atom 0 sees itself (score 0), atom 1 at 2 Å (score 1) and atom 2 on the edge (score 60 or 200).
    frac_coords = np.array([[0, 0, 0], [0.125, 0, 0], [0, 0.25, 0]])
    crystal = Crystal(np.array([1, 2, 3]), frac_coords, 16 * np.eye(3))
    batch = with_images(CrystalBatch.from_crystals([crystal]), 4.0).to(dtype)
    q = torch.tensor([[[1.0]], [[0]], [[0]]], dtype=dtype)
    k = torch.tensor([[[0.0]], [[1]], [[score]]], dtype=dtype)
    v = torch.tensor([[[1.0]], [[2]], [[1e3]]], dtype=dtype)
    y = infinite_attention(
        q, k, v, torch.full((3, 1), 0.25, dtype=dtype), None, Geometry(batch, RadialBasis(0, 1)), backend
    )
    near = math.exp(1 - 0.5 * 4 * 0.25)
    assert y[0].item() == pytest.approx((1 + 2 * near) / (1 + near), rel=1e-5)


def test_a_sphere_with_nothing_but_the_atom_itself() -> None:
    lonely = Case([Crystal(np.array([2]), np.zeros((1, 3)), 50 * np.eye(3))])
    whole = problem(lonely)
    for backend in ("reference", "torch"):
        answer = whole.solve(backend)
        encoding = torch.einsum("hdk,k->hd", whole.inputs["W"], whole.geometry.basis(torch.zeros(()).double()))
        assert torch.allclose(answer["y"], whole.inputs["v"] + encoding)
        assert answer["q"].abs().max() < 1e-12


# --- the sum itself ---


@pytest.mark.parametrize("sigma", [0.7, 1.4, SIGMA_BOUND])
def test_the_sphere_is_the_infinite_sum_to_the_tolerance(sigma: float) -> None:
    """Against a sphere twice as large: the error is below the tolerance that chose the radius (times the density)."""
    case = Case([make_crystal("symmetric", seed=2), make_crystal("tiny")], sigma=(sigma, sigma))
    for tolerance in (1e-4, 1e-7, 1e-10):
        near = problem(replace(case, radius=radius_for(tolerance, SIGMA_BOUND)), scale=0.1)
        far = problem(replace(case, radius=radius_for(1e-15, SIGMA_BOUND)), scale=0.1)
        y, converged = (attend(p.inputs, p.geometry, "torch") for p in (near, far))
        assert (y - converged).abs().max() < 10 * tolerance
