"""The rules for lists of images: both implementations see the same in lists that were damaged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import random_crystals

from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, Images, build_images
from crystalformers.images.checks import RULES, broken_rules_compiled, broken_rules_torch

LISTS = ("ptr", "pair", "pair_target", "pair_source")
IMPOSSIBLE = (-1e-300, -1.0, math.inf, -math.inf, math.nan, 3e38)


@pytest.fixture(scope="module")
def batch() -> CrystalBatch:
    if library() is None:
        pytest.skip("NOT TESTED: the compiled kernels are not installed")
    return CrystalBatch.from_crystals(random_crystals(3))


@pytest.fixture(scope="module")
def images(batch: CrystalBatch) -> Images:
    return build_images(batch, 4.0)


def broken(ptr: torch.Tensor, images: Images) -> list[str]:
    """The rules that do not hold, in which both implementations must agree."""
    found = broken_rules_compiled(ptr, images)
    assert found == broken_rules_torch(ptr, images)
    return [rule for rule, flag in zip(RULES, found, strict=True) if flag]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_is_wrong_with_lists_as_built(batch: CrystalBatch, images: Images, dtype: torch.dtype) -> None:
    assert broken(batch.ptr, images.to(dtype)) == []


def test_both_implementations_find_the_same_in_damaged_lists(batch: CrystalBatch, images: Images) -> None:
    rng, seen = np.random.default_rng(0), set[str]()
    for _ in range(800):
        name = str(rng.choice([*LISTS, "crystals"]))
        changed = (batch.ptr if name == "crystals" else getattr(images, name)).clone()
        for place in rng.integers(len(changed), size=rng.integers(1, 4)):
            near = int(getattr(images, name, batch.ptr)[place]) + int(rng.integers(-2, 3))
            changed[place] = int(rng.choice([near, near, -1, 0, len(images.pair), 2**31 - 1, 1 - 2**31]))
        ptr, damaged = (changed, images) if name == "crystals" else (batch.ptr, replace(images, **{name: changed}))
        seen.update(broken(ptr, damaged))
    assert seen == {*RULES} - {RULES[1]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("distance", IMPOSSIBLE)
def test_distances_that_none_can_be(batch: CrystalBatch, images: Images, distance: float, dtype: torch.dtype) -> None:
    for place in (0, 17, len(images.distance) - 1):
        distances = images.distance.to(dtype, copy=True)
        distances[place] = distance
        possible = 0 <= float(distances[place]) < math.inf  # -1e-300 is -0 in float32
        assert broken(batch.ptr, replace(images, distance=distances)) == ([] if possible else [RULES[1]])


@pytest.mark.parametrize("n_images", [0, 1])
def test_lists_with_few_or_no_images(images: Images, n_images: int) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    empty = replace(
        images,
        distance=images.distance[:n_images],
        pair=torch.zeros(n_images, dtype=torch.int32),
        ptr=torch.tensor([0, n_images]),
        pair_target=none,
        pair_source=none,
    )
    assert bool(broken(torch.tensor([0, 1]), empty)) == bool(n_images)
