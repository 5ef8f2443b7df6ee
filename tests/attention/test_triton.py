"""The Triton kernels against the reference: on a CUDA device where there is one, else in Triton's interpreter."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import SIGMA_BOUND, Case, Problem, attend, grown, problem, relative
from strategies import make_crystal
from torch import Tensor

from crystalformers.attention import (
    AngularBasis,
    AngularEncoding,
    Backend,
    Geometry,
    RadialBasis,
    choose_backend,
    infinite_attention,
)
from crystalformers.attention.backends.triton import frames, operators
from crystalformers.attention.backends.triton.frames import FRAMES
from crystalformers.attention.frames.local import FrameMethod, max_frames
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, build_images, with_images

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETER = (3, 9)
"""First release of Triton whose interpreter works with NumPy 2.4."""


def unsupported_reason() -> str | None:
    """Why the kernels cannot run here."""
    if not operators.installed():
        return 'NOT TESTED: Triton is not installed (pip install "crystalformers[gpu]")'
    release = version("triton")
    if DEVICE == "cpu" and tuple(map(int, release.split(".")[:2])) < INTERPRETER:
        return f"NOT TESTED: no CUDA device, and the interpreter of Triton {release} is too old"
    return None


needs_triton = pytest.mark.skipif(unsupported_reason() is not None, reason=unsupported_reason() or "")

MIXED = [
    make_crystal("tiny"),
    make_crystal("needle", 2),
    make_crystal("sheared", 2),
    make_crystal("left-handed", 2),
    make_crystal("unwrapped", 2),
    make_crystal("symmetric"),
]
CASES = {
    "published sizes": Case([make_crystal("random", 2), make_crystal("tiny")], 6.0, 8, 16, 64),
    "odd sizes": Case([make_crystal("random", 2)], 5.0, heads=9, head_dim=5, radial=17, width=1.7),
    "six atoms beside one, no encoding": Case([grown(6), make_crystal("tiny")], 3.5, heads=2, radial=0),
    "widest decay": Case([make_crystal("tiny")], sigma=(SIGMA_BOUND, SIGMA_BOUND)),
    "narrowest decay": Case([make_crystal("random", 2)], sigma=(0.05, 0.1)),
}


def moved(whole: Problem, dtype: torch.dtype) -> Problem:
    """The problem on the device in single precision, its features of the given type."""
    single = whole.to(torch.float32)
    inputs = {
        name: t.to(DEVICE, torch.float32 if name == "inverse_variance" else dtype) for name, t in single.inputs.items()
    }
    geometry = Geometry(single.geometry.batch.to(DEVICE), single.geometry.basis)
    return Problem(inputs, geometry, single.cotangent.to(DEVICE, dtype))


def home(answer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in answer.items()}


@needs_triton
def test_triton_is_the_reference_for_every_kind_of_cell() -> None:
    whole = problem(Case(MIXED, radius=4.0))
    errors = relative(home(moved(whole, torch.float32).solve("triton")), whole.solve("reference"))
    assert max(errors.values()) < 3e-6, errors


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_triton_errs_at_most_twice_as_much_as_plain_float32(name: str) -> None:
    """Values and every gradient, root mean square over three draws; the floor is a fifth of a rounding."""
    squares: dict[str, dict[str, list[Tensor]]] = {"triton": {}, "torch": {}}
    for seed in range(3):
        whole = problem(CASES[name], seed)
        exact, single = whole.solve("reference"), moved(whole, torch.float32)
        for backend, found in squares.items():
            for tensor, value in home(single.solve(backend)).items():
                error = (value.double() - exact[tensor]) / exact[tensor].abs().max().clamp(min=1)
                found.setdefault(tensor, []).append(error.square().mean())
    rms = {
        b: {t: torch.stack(values).mean().sqrt().item() for t, values in found.items()} for b, found in squares.items()
    }
    floor = 0.2 * torch.finfo(torch.float32).eps
    factors = {tensor: error / max(rms["torch"][tensor], floor) for tensor, error in rms["triton"].items()}
    print(f"{name}: error over that of plain float32: " + ", ".join(f"{t} {f:.2f}" for t, f in factors.items()))
    assert max(factors.values()) <= 2, factors
    assert max(rms["triton"].values()) < 1e-6, rms


@needs_triton
def test_bfloat16_rounds_operands_and_sums_in_float32() -> None:
    """Against the reference with the same rounded inputs: a few roundings of the largest number, no more."""
    whole = problem(CASES["published sizes"])
    rounded = {name: t if name == "inverse_variance" else t.bfloat16().double() for name, t in whole.inputs.items()}
    exact = Problem(rounded, whole.geometry, whole.cotangent.bfloat16().double()).solve("reference")
    answer = moved(whole, torch.bfloat16).solve("triton")
    assert answer["y"].dtype == answer["k"].dtype == torch.bfloat16
    assert answer["inverse_variance"].dtype == torch.float32
    errors = relative(home(answer), exact)
    assert max(errors.values()) < 4 * 2**-8, errors
    assert max(errors.values()) > 1e-5


@needs_triton
def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    single = moved(problem(CASES["published sizes"]), torch.float32)
    first = home(single.solve("triton"))
    monkeypatch.setattr(operators, "TILING", operators.Tiling(images=64, pairs=2, scan=32, warps=8))
    errors = relative(home(single.solve("triton")), {name: tensor.double() for name, tensor in first.items()})
    assert max(errors.values()) < 2e-6, errors


@needs_triton
def test_repeats_give_the_same_bits() -> None:
    single = moved(problem(CASES["odd sizes"]), torch.float32)
    first = single.solve("triton")
    for _ in range(250 if DEVICE == "cuda" else 1):
        again = single.solve("triton")
        assert all(torch.equal(first[name], again[name]) for name in first)


@needs_triton
def test_extreme_scores_give_numbers() -> None:
    whole = problem(CASES["six atoms beside one, no encoding"], scale=14.0)
    exact, answer = whole.solve("reference"), home(moved(whole, torch.float32).solve("triton"))
    assert all(tensor.isfinite().all() for tensor in answer.values())
    assert torch.allclose(answer["y"].double(), exact["y"], atol=2e-4)


@needs_triton
@pytest.mark.parametrize("score", [60.0, 200.0])
def test_an_image_on_the_very_edge_weighs_nothing_whatever_its_score(score: float) -> None:
    """As for the other backends: its envelope is zero, and it must not set the maximum of the softmax."""
    crystal = replace(make_crystal("tiny"), numbers=[1, 2, 3], frac_coords=[[0, 0, 0], [0.125, 0, 0], [0, 0.25, 0]])
    crystal = replace(crystal, lattice=[[16, 0, 0], [0, 16, 0], [0, 0, 16]])
    batch = with_images(CrystalBatch.from_crystals([crystal]), 4.0).to(torch.float32).to(DEVICE)
    q, k, v = (
        torch.tensor(values, device=DEVICE)[:, None, None] for values in ((1.0, 0, 0), (0, 1, score), (1, 2, 1e3))
    )
    inverse_variance = torch.full((3, 1), 0.25, device=DEVICE)
    y = infinite_attention(q, k, v.float(), inverse_variance, None, Geometry(batch, RadialBasis(0, 1)), "triton")
    near = math.exp(1 - 0.5 * 4 * 0.25)
    assert y[0].item() == pytest.approx((1 + 2 * near) / (1 + near), rel=1e-5)


@needs_triton
def test_an_atom_without_images_sums_to_zero_and_has_no_gradient() -> None:
    """Padding is made of such atoms."""
    whole = moved(problem(replace(CASES["narrowest decay"])), torch.float32)
    images, atoms = whole.geometry.images, whole.geometry.batch.n_atoms
    last = images.ptr[atoms - 1 : atoms]
    alone = replace(images, ptr=torch.cat([images.ptr[:-1], last]))
    geometry = Geometry(replace(whole.geometry.batch, images=alone), whole.geometry.basis)
    answer = Problem(whole.inputs, geometry, whole.cotangent).solve("triton")
    assert answer["y"][-1].abs().max() == answer["q"][-1].abs().max() == answer["inverse_variance"][-1].abs().max() == 0
    assert all(tensor.isfinite().all() for tensor in answer.values())


@needs_triton
def test_the_transposed_list_is_the_list() -> None:
    geometry = moved(problem(Case(MIXED, radius=4.0)), torch.float32).geometry
    lists, images = operators.TritonImages.of(geometry), geometry.images
    assert torch.equal(lists.by_source.long().sort().values, torch.arange(len(images.pair), device=DEVICE))
    assert torch.equal(images.target[lists.by_source].int(), lists.target)
    source = torch.repeat_interleave(torch.arange(images.n_atoms, device=DEVICE), lists.source_ptr.diff())
    assert torch.equal(images.source[lists.by_source], source)
    ascending = images.distance[lists.by_source].diff() >= 0
    assert (ascending | (source.diff() > 0)).all()
    assert torch.equal(
        images.pair_target, torch.repeat_interleave(torch.arange(images.n_atoms, device=DEVICE), lists.pair_ptr.diff())
    )


@needs_triton
@pytest.mark.parametrize("radial", [5, 0])
def test_the_operator_is_registered_as_pytorch_wants_it(radial: int) -> None:
    case = Case([make_crystal("tiny")], 2.5, 2, 2, radial)
    single = moved(problem(case), torch.float32)
    features = [single.inputs[name].clone().requires_grad_() for name in ("q", "k", "v", "inverse_variance")]
    lists = operators.TritonImages.of(single.geometry).tensors()
    operands = (*features, lists, 0.2, 5.0, radial, bool(radial))
    torch.library.opcheck(torch.ops.crystalformers.triton_image_sum.default, operands)


# --- frames ---

FRAMED = {
    "generic": [make_crystal("random", 2), make_crystal("tiny")],
    "tied": [make_crystal("symmetric")],
    "alone": [make_crystal("tiny")],
}


def framed(name: str, frame: FrameMethod, backend: Backend, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """The output of CrystalFramer's attention and the gradient of every input."""
    radius = {"generic": 4.0, "tied": 3.0, "alone": 1.0}[name]
    batch = with_images(CrystalBatch.from_crystals(FRAMED[name]), radius, directions=True)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_()

    shape = (batch.n_atoms, 2, 4)
    q, k, v = normal(*shape), normal(*shape), normal(*shape)
    inverse_variance = torch.full(shape[:2], 0.6, dtype=dtype, device=device).requires_grad_()
    encoding, angles, cotangent = normal(2, 4, 5), normal(3, 2, 4, 6), normal(*shape).detach()
    geometry = Geometry(batch.to(device).to(dtype), RadialBasis(5, 14.0))
    angular = AngularEncoding(angles, AngularBasis(6, 2.0), frame)
    y = infinite_attention(q, k, v, inverse_variance, encoding, geometry, backend, angular=angular)
    leaves = [q, k, v, inverse_variance, encoding, angles]
    gradients = torch.autograd.grad(y, leaves, cotangent)
    names = ("y", "q", "k", "v", "inverse_variance", "W", "angles")
    return {name: tensor.detach().cpu() for name, tensor in zip(names, (y, *gradients), strict=True)}


@needs_triton
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", FRAMED)
def test_frames_are_those_of_the_reference(name: str, frame: FrameMethod) -> None:
    if (name, frame) == ("tied", "lattice") and DEVICE == "cpu":
        pytest.skip("NOT TESTED: hundreds of tied frames take Triton's interpreter minutes")
    exact = framed(name, frame, "reference", torch.float64, "cpu")
    errors = relative(framed(name, frame, "triton", torch.float32, DEVICE), exact)
    assert max(errors.values()) < 5e-6, errors


def weighed(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the images of two heads, directions and the first image of each atom, on the device."""
    batch = with_images(CrystalBatch.from_crystals(FRAMED[name]), 4.0, directions=True).to(torch.float32)
    geometry = Geometry(batch, RadialBasis(5, 14.0))
    distance = geometry.images.distance
    p = torch.stack([torch.exp(-distance.square()), torch.exp(-0.3 * distance.square())], 1)
    return p.to(DEVICE), frames._directions(geometry).to(DEVICE), geometry.images.ptr.to(DEVICE)


@needs_triton
@pytest.mark.parametrize("name", FRAMED)
def test_the_kernel_finds_the_frames_that_pytorch_finds(name: str) -> None:
    p, direction, ptr = weighed(name)
    first, axes, share = torch.ops.crystalformers.triton_max_frames(p, direction, ptr, 0.01)
    for row in range(p.shape[1] * (len(ptr) - 1)):
        i, h = divmod(row, p.shape[1])
        images = slice(int(ptr[i]) + 1, int(ptr[i + 1]))
        expected = max_frames(p[images, h].log()[None], direction[images][None], 0.01)
        mine = slice(int(first[row]), int(first[row + 1]))
        order = torch.argsort(share[mine], stable=True), torch.argsort(expected.weight, stable=True)
        assert len(share[mine]) == len(expected.weight)
        assert torch.allclose(share[mine][order[0]], expected.weight[order[1]], atol=1e-5)
        means = (
            (share[mine, None] * axes[mine]).sum(0),
            (expected.weight[:, None, None] * expected.axes).sum(0).flatten(),
        )
        assert torch.allclose(*means, atol=1e-5)


@needs_triton
def test_more_frames_than_there_is_room_for_give_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAMES_PER_ROW", 0)
    monkeypatch.setattr(frames, "LEAST_FRAMES", 2)
    first, _, share = torch.ops.crystalformers.triton_max_frames(*weighed("tied"), 0.01)
    assert first.max() <= 2
    assert share.isnan().all()


@needs_triton
def test_the_operators_of_frames_and_angles_are_registered_as_pytorch_wants_them() -> None:
    torch.library.opcheck(torch.ops.crystalformers.triton_max_frames.default, (*weighed("alone"), 0.01))
    p = torch.rand(4, 1, device=DEVICE, requires_grad=True)
    direction = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], device=DEVICE)
    ptr, frame_ptr = torch.tensor([0, 4], device=DEVICE), torch.tensor([0, 1], device=DEVICE)
    lists = [direction, ptr, frame_ptr, torch.eye(3, device=DEVICE).reshape(1, 9), torch.ones(1, device=DEVICE)]
    torch.library.opcheck(torch.ops.crystalformers.triton_angular_sum.default, (p, lists, 0.4, 2.0, 6))


# --- what needs no Triton ---


def test_auto_takes_pytorch_on_a_gpu() -> None:
    class OnCuda:
        device, dtype = torch.device("cuda"), torch.float32

    q: Any = OnCuda()
    assert choose_backend(q, problem(CASES["widest decay"]).geometry) == "torch"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem(CASES["widest decay"])
    monkeypatch.setattr(operators, "installed", lambda: False)
    with pytest.raises(ConfigError, match=r"needs Triton.*crystalformers\[gpu\]"):
        attend(whole.inputs, whole.geometry, "triton")
    monkeypatch.setattr(operators, "installed", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="CUDA devices, and the tensors are on cpu"):
        attend(whole.inputs, whole.geometry, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match=r"not torch\.float64; use 'torch'"):
        attend(whole.inputs, whole.geometry, "triton")
    single = whole.to(torch.float32)
    angular = AngularEncoding(torch.zeros(3, 3, 4, 5), AngularBasis(5, 1.0), "pca")
    arguments = [single.inputs[name] for name in ("q", "k", "v", "inverse_variance", "W")]
    with pytest.raises(ConfigError, match="no 'pca' frames, only max"):
        infinite_attention(*arguments, single.geometry, "triton", angular=angular)
    batch = single.geometry.batch
    images = build_images(batch, 5.0, directions=True)
    shaken = replace(batch, positions=batch.positions.clone().requires_grad_())
    shaken = replace(shaken, images=images.moved(shaken))
    with pytest.raises(ConfigError, match="no gradients of positions"):
        attend(single.inputs, Geometry(shaken, single.geometry.basis), "triton")


# --- compiled without a GPU ---

COMPILE = Path(__file__).with_name("compile_triton.py")


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: Triton compiles on Linux only")
def test_the_kernels_compile_for_hopper_without_spilling() -> None:
    """Triton brings the assembler along, so no GPU is needed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(COMPILE)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 8, done.stdout
    assert all("stack 0 " in line or "stack 8 " in line for line in lines), done.stdout
