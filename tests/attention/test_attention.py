"""Every attention backend against the reference: values, every gradient, precision, repeatability, dispatch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import crystals, make_crystal, random_crystals
from torch import Tensor

from crystalformers import attention as module
from crystalformers.attention import Geometry, RadialBasis, infinite_attention
from crystalformers.attention.backends import BACKENDS, BackendModule, load_backend
from crystalformers.attention.backends.cpu import backend as cpu
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, build_images, radius_for, with_images

needs_library = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")

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

    def solve(self, backend: Any) -> dict[str, Tensor]:
        """The output `y`, and the gradient of each input by its name."""
        inputs = {name: tensor.detach().clone().requires_grad_() for name, tensor in self.inputs.items()}
        y = attend(inputs, self.geometry, backend)
        grads = torch.autograd.grad(y, list(inputs.values()), self.cotangent)
        return {"y": y.detach()} | dict(zip(inputs, grads, strict=True))


def attend(inputs: dict[str, Tensor], geometry: Geometry, backend: Any) -> Tensor:
    q, k, v, inverse_variance = (inputs[name] for name in ("q", "k", "v", "inverse_variance"))
    return infinite_attention(q, k, v, inverse_variance, inputs.get("W"), geometry, backend)


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


# --- dispatch ---


def test_auto_takes_the_fused_kernel_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem(CASES["one atom"])
    monkeypatch.setattr(cpu, "library", object)
    assert module.choose_backend(whole.inputs["q"].float(), whole.geometry) == "cpu"
    assert module.choose_backend(whole.inputs["q"], whole.geometry) == "torch"


def test_a_missing_library_falls_back_with_one_visible_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    single = problem(CASES["one atom"]).to(torch.float32)
    monkeypatch.setattr(cpu, "library", lambda: None)
    module._warn_of_missing_library.cache_clear()
    with pytest.warns(RuntimeWarning, match="compiled kernels are not installed"):
        first = attend(single.inputs, single.geometry, "auto")
    assert torch.equal(first, attend(single.inputs, single.geometry, "torch"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend(single.inputs, single.geometry, "auto")
    module._warn_of_missing_library.cache_clear()


def test_kernels_that_are_switched_off_are_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    single = problem(CASES["one atom"]).to(torch.float32)
    monkeypatch.setattr(cpu, "library", lambda: None)
    monkeypatch.setenv("CRYSTALFORMERS_KERNELS", "none")
    module._warn_of_missing_library.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend(single.inputs, single.geometry, "auto")
    with pytest.raises(ConfigError, match="CRYSTALFORMERS_KERNELS=none switches off"):
        attend(single.inputs, single.geometry, "cpu")


def test_a_backend_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem(CASES["one atom"])
    if library() is not None:
        with pytest.raises(ConfigError, match="float32"):
            attend(whole.inputs, whole.geometry, "cpu")
    with pytest.raises(ConfigError, match="'fast' is not one of"):
        attend(whole.inputs, whole.geometry, "fast")
    monkeypatch.setattr(cpu, "library", lambda: None)
    with pytest.raises(ConfigError, match="C compiler"):
        attend(whole.to(torch.float32).inputs, whole.geometry, "cpu")


TOY = """
from crystalformers.attention.backends.torch import attention as plain

def unsupported_reason(q_AHD, geometry, angular):
    return "has one head only" if q_AHD.shape[1] > 1 else None

def attention(arguments):
    return 2 * plain(arguments)
"""


def test_a_backend_is_added_with_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "toy_attention.py").write_text(TOY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BACKENDS, "toy", "toy_attention")
    one, two = (problem(Case([make_crystal("tiny")], heads=heads)) for heads in (1, 2))
    assert torch.equal(attend(one.inputs, one.geometry, "toy"), 2 * attend(one.inputs, one.geometry, "torch"))
    with pytest.raises(ConfigError, match="Attention backend 'toy' has one head only"):
        attend(two.inputs, two.geometry, "toy")
    with pytest.raises(ConfigError, match="'fast' is not one of auto, reference, torch, cpu, triton, toy"):
        attend(one.inputs, one.geometry, "fast")


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_the_same_signatures(name: str) -> None:
    module = load_backend(name)
    for function in ("attention", "unsupported_reason"):
        expected = list(signature(getattr(BackendModule, function)).parameters)[1:]
        assert list(signature(getattr(module, function)).parameters) == expected


@needs_library
def test_the_fused_kernel_never_drops_a_gradient_of_positions() -> None:
    """Asked for by name where distances carry a gradient, it must refuse rather than return none."""
    whole = problem(CASES["one atom"]).to(torch.float32)
    batch = whole.geometry.batch
    images = build_images(batch, 5.0, directions=True)
    moved = replace(batch, positions=batch.positions.clone().requires_grad_())
    moved = replace(moved, images=images.moved(moved))
    with pytest.raises(ConfigError, match=r"position|distance|gradient"):
        attend(whole.inputs, Geometry(moved, whole.geometry.basis), "cpu")


def test_a_geometry_computes_once_for_each_function_and_its_settings() -> None:
    geometry, calls = problem(CASES["one atom"]).geometry, []

    def scaled(geometry: Geometry, times: float) -> float:
        calls.append(times)
        return times * geometry.basis.count

    assert [geometry.cached(scaled, times) for times in (2.0, 3.0, 2.0)] == [10.0, 15.0, 10.0]
    assert calls == [2.0, 3.0]
    other = replace(geometry, basis=RadialBasis(7, 14.0))
    assert other.cached(scaled, 2.0) == 14.0, "another geometry begins with nothing"


def test_images_must_be_there() -> None:
    geometry = Geometry(CrystalBatch.from_crystals([make_crystal("tiny")]), RadialBasis(0, 1.0))
    with pytest.raises(ValueError, match="has no images"):
        attend(problem(CASES["one atom"]).inputs, geometry, "torch")


def test_the_radial_basis() -> None:
    basis = RadialBasis(64, 14.0)
    values = basis(torch.tensor([0.0, 0.21875, 14.0], dtype=torch.float64))
    assert values.shape == (3, 64)
    assert values[0, :2].tolist() == pytest.approx([math.exp(-0.5), math.exp(-2)])
    assert values[1, 0] == values[2, 63] == 1
    assert RadialBasis(10, 5.0, 2.0)(torch.tensor(1.5, dtype=torch.float64))[0] == pytest.approx(math.exp(-0.5))
