"""Which backend runs: the choice of `auto`, what is refused, a new one; and the geometry that all share."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
import torch
from problems import CASES, Case, attend, problem
from strategies import make_crystal

from crystalformers import attention as module
from crystalformers.attention import Geometry, RadialBasis
from crystalformers.attention.backends import BACKENDS, BackendModule, load_backend
from crystalformers.attention.backends.cpu import backend as cpu
from crystalformers.csrc.kernels import library
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, build_images

needs_library = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")


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
