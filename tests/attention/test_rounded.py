"""Features rounded to bfloat16: what the fused kernel then leaves out is small beside that rounding."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from problems import CASES, problem
from strategies import SYMMETRIC_CRYSTALS
from test_frames import batch_of, encode
from torch import Tensor

from crystalformers import Crystal
from crystalformers.attention.backends.cpu.accuracy import BFLOAT16, FLOAT32
from crystalformers.attention.frames.local import FrameMethod
from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model

pytestmark = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")

ROUNDING = 2.0**-8
"""Largest relative error of a number in bfloat16."""


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square, in units of that of the exact numbers, but for those that should all be zero."""
    size = exact.square().mean().sqrt().clamp(min=1e-6)
    return float((found.double() - exact).square().mean().sqrt() / size)


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_out_is_small_beside_the_rounding(name: str) -> None:
    whole = problem(CASES[name])
    exact, found = whole.solve("torch"), whole.to(torch.float32).solve("cpu", rounded=True)
    errors = {key: error(found[key], numbers) for key, numbers in exact.items()}
    print(errors)
    assert max(errors.values()) <= ROUNDING


@pytest.mark.parametrize("method", get_args(FrameMethod))
@pytest.mark.parametrize(
    ("names", "radius"), [(("low", "rock salt"), 6.0), (("alone", "chain"), 6.0), (("perovskite",), 11.3)], ids=str
)
def test_frames_too(method: FrameMethod, names: tuple[str, ...], radius: float) -> None:
    batch = batch_of(*(SYMMETRIC_CRYSTALS[name] for name in names), radius=radius)
    exact, exact_gradients = encode(batch, method, "torch")
    found, gradients = encode(batch.to(torch.float32), method, "cpu", rounded=True)
    pairs = zip([found, *gradients], [exact, *exact_gradients], strict=True)
    errors = [error(ours, theirs) for ours, theirs in pairs]
    print(errors)
    assert max(errors) <= ROUNDING


def test_fewer_images_are_summed() -> None:
    """That of a wide head differs from the exact sum, so that the switch reaches the kernel."""
    assert BFLOAT16.negligible < FLOAT32.negligible
    assert BFLOAT16.negligible_backward < FLOAT32.negligible_backward
    whole = problem(CASES["far beyond the widths"]).to(torch.float32)
    exact, found = (whole.solve("cpu", rounded=rounded) for rounded in (False, True))
    assert all(not torch.equal(exact[key], found[key]) for key in exact)


def test_a_model_leaves_nothing_out_in_float32() -> None:
    """Autocast is what makes the difference; predictions run without it."""
    torch.manual_seed(0)
    model = build_model("crystalformer", {"n_targets": 1, "frame": "max"})
    crystals = [SYMMETRIC_CRYSTALS["low"], Crystal(np.array([6]), np.zeros((1, 3)), 2.5 * np.eye(3))]
    batch = with_images(CrystalBatch.from_crystals(crystals), model.radius(1e-5), directions=True)
    model.calibrate(batch)
    with torch.inference_mode():
        plain = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(batch)
        exact = model.double()(batch)
    assert float((plain.double() - exact).abs().max()) < 1e-5
    assert 1e-5 < float((rounded.double() - exact).abs().max()) < 0.1
