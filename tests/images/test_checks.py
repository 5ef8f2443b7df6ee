"""The rules for lists of images: both implementations see the same in lists that were damaged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import random_crystals

from crystalformers.csrc.kernels import library
from crystalformers.errors import CrystalformersError
from crystalformers.images import CrystalBatch, Images, build_images
from crystalformers.images.checks import (
    RULES,
    broken_rules_compiled,
    broken_rules_torch,
    check_cells,
    check_coordinates,
    suspect,
)

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


def refused(
    lattice: torch.Tensor, triangle: torch.Tensor, frac: torch.Tensor, ptr: torch.Tensor, radius: float
) -> bool:
    """Whether PyTorch refuses cells or coordinates."""
    try:
        check_cells(lattice, triangle, ptr.diff(), radius)
        check_coordinates(frac)
    except CrystalformersError:
        return True
    return False


def test_both_implementations_refuse_the_same_cells_and_coordinates(batch: CrystalBatch) -> None:
    """Numbers of every size in any place of the cells, in coordinates, and radii of every size."""
    rng, outcomes = np.random.default_rng(0), []
    frac = torch.linalg.solve(batch.lattice[batch.crystal_of_atom].mT, batch.positions[..., None])[..., 0]
    extremes = (math.nan, math.inf, -math.inf, 0.0, 1e-300, 1e-20, 1e-7, -1.0, 1e7, 1e16, 1e160, 1e308)
    for _ in range(2000):
        lattice, coordinates, radius = batch.lattice.clone(), frac.clone(), 4.0
        match rng.integers(4):
            case 0:
                lattice.view(-1)[rng.integers(lattice.numel())] = rng.choice(extremes)
            case 1:
                coordinates.view(-1)[rng.integers(frac.numel())] = rng.choice(extremes)
            case 2:
                lattice[rng.integers(len(lattice))] *= rng.choice(extremes)
            case _:
                radius = float(rng.choice([1e-6, 1.0, 10.0, 1e3, 1e5, 1e110, 1e300]))
        triangle = torch.linalg.qr(lattice.mT, mode="r").R.mT.contiguous()
        given = lattice, triangle, coordinates.contiguous(), batch.ptr, radius
        assert suspect(*given) == refused(*given), (lattice, coordinates, radius)
        outcomes.append(refused(*given))
    assert 200 < sum(outcomes) < 1800
